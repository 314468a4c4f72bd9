"""A run's folder made by hand, with everything in it that a page tells, and texts that would do harm unescaped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

EVIL = "<script>window.harmed = 1; fetch('https://example.org/')</script>"
"""As question, thought, completion, kind …"""
QUOTE = '"><img src="https://example.org/x.png" onerror="window.harmed = 2"><b '
"""For what stands in attributes."""

RESULTS = {
    "stage": "fit",
    "giou": 0.5,
    "ciou": 0.4,
    "heatmap_giou": 0.45,
    "format_rate": 1.0,
    "n": 40,
    "by_kind": {"attribute": 0.5},
    "global_step": 30,
    "seed": 3,
    "fit_seconds": 75.2,
    "best_checkpoint": None,
}

PROVENANCE: dict[str, Any] = {
    "stage": "fit",
    "status": "finished",
    "start": "2026-01-01T00:00:00+00:00",
    "end": "2026-01-01T01:00:00+00:00",
    "error": None,
    "command": f"coprs fit --note {EVIL}",
    "seed": 3,
    "versions": {"coprs_lightning": "0.1.0", "torch": "2.9.0", "timm": None},
    "git": {"commit": "0123456789abcdef", "dirty": True},
    "machine": {"hostname": "node7", "device": "cpu", "world_size": 2, "slurm_job": None},
    "data": {"train": [{"folder": "data/train", "name": "made", "sha256": "a" * 64}]},
    "parameters": {"policy": {"total": 1_029_056, "trainable": 5}, "total": {"total": 2_636_679, "trainable": 7}},
}


def make_run(folder: Path, *, evaluated: bool = True, evil: str = EVIL) -> Path:
    """A finished run of 30 steps with two validations."""
    log = folder / "logs" / "version_0"
    log.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"seed_everything: 3\nmodel:\n  prompt: '{evil}'\n")
    (folder / "config-validate.yaml").write_text("another: 1\n")
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (log / "provenance.json").write_text(json.dumps(PROVENANCE))
    lines = ["step,epoch,train/loss,train/loss/dice,val/giou,val/giou/attribute"]
    lines += [f"{step},0,{3 / (step + 1):.4f},{0.9 - step / 60:.4f},," for step in range(30)]
    lines += ["14,0,,,0.3,0.2", "29,0,,,0.5,0.4"]
    (log / "metrics.csv").write_text("\n".join(lines) + "\n")
    (log / "smoke.json").write_text(json.dumps({"looks": [_look(evil)]}))
    _write_correlation(log / "correlation")
    panels = log / "panels" / "val-step-000030"
    picture(panels / "00-val-000000_0.png", 1)
    if evaluated:
        make_evaluation(folder / "evaluation", evil)
    return folder


def _look(evil: str) -> dict[str, Any]:
    finding = {"name": "empty masks", "evidence": f"all 8 masks are empty {evil}", "remedy": "Train longer."}
    return {"where": "first batches", "step": 0, "findings": [finding], "signs": {}}


def _write_correlation(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = [f"{step},{0.5 + step / 100:.3f},{0.2 + step / 50:.3f}" for step in range(1, 31)]
    (folder / "train.csv").write_text("\n".join(["step,one_minus_heatmap_bce,one_minus_mask_dice_loss", *rows]) + "\n")
    for step in (15, 30):
        points = [f"val-{n},{'attribute'},{n / 10},{min(1.0, step / 300 + n / 11)}" for n in range(10)]
        text = "\n".join(["key,kind,heatmap_iou,mask_iou", *points]) + "\n"
        (folder / f"val-step-{step:06d}.csv").write_text(text)


def example(number: int, **changes: Any) -> dict[str, Any]:
    """One line of ``examples.jsonl``; the mask's IoU grows with the number."""
    iou = min(1.0, number / 20)
    thought = "look for: red circle." if number % 4 else "look for: blue circle."
    line = {
        "key": f"test-{number:06d}/0",
        "split": "test",
        "unit": "target",
        "image": f"test-{number:06d}",
        "kind": ("attribute", "position")[number % 2],
        "question": f"Find the red circle {number}.",
        "written_thought": "look for: red circle.",
        "completion": f"<think> {thought} </think> <REF_POS>",
        "thought": thought,
        "well_formed": True,
        "truncated": False,
        "present": True,
        "height": 100,
        "width": 100,
        "iou": iou,
        "heatmap_iou": min(1.0, iou * 0.8 + 0.05),
        "intersection": int(300 * iou),
        "target_pixels": 300 + 40 * number,
        "predicted_pixels": 300,
    }
    return {**line, **changes}


def make_evaluation(folder: Path, evil: str = EVIL) -> None:
    """Twenty-four examples in two units, of which some failed for each reason."""
    lines = [example(number) for number in range(20)]
    lines += [
        example(20, iou=0.0, present=False, truncated=True, well_formed=False, completion="<think> and", thought=""),
        example(21, iou=0.0, present=False, well_formed=False, completion=evil, thought="", question=evil, kind=evil),
        example(22, iou=0.0, target_pixels=0, intersection=0),
        example(23, iou=0.0, predicted_pixels=0, key=f"test-{QUOTE}/0", thought=evil, completion=evil * 30),
    ]
    both = [*lines, *({**line, "unit": "expression", "key": f"{line['key']}/0"} for line in lines)]
    folder.mkdir(parents=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in both)
    (folder / "examples.jsonl").write_text(text + "{half a li", encoding="utf-8")
    score = {"value": 0.4375, "low": 0.4, "high": 0.48, "n": 24}
    unit = {"n": 24, "differs": False, "scores": {"giou": score, "ciou": score, "heatmap_giou": score}}
    published = {"model": f"Other {evil}", "metric": "giou", "value": 0.66, "unit": None, "source": "a paper"}
    split = {"name": "test", "units": {"target": unit, "expression": unit}, "published": [published]}
    content = {
        "format": 1,
        "checkpoint": {"file": "step=30.ckpt", "sha256": "b" * 64},
        "settings": {"batch_size": 8, "max_new_tokens": 48, "decoding": "greedy"},
        "splits": [split],
        "machine": {"device": "cpu", "processes": 1},
        "provenance": {"git": {"commit": "fedcba9876543210", "dirty": False}},
    }
    (folder / "results.json").write_text(json.dumps(content))
    for kind, number in (("best", 19), ("worst", 1), ("random", 7)):
        picture(folder / "panels" / "test" / f"{kind}-01-test-{number:06d}-0-0.png", number)
    picture(folder / "panels" / "test" / "worst-02-test-000021-0-0.png", 21)


def picture(path: Path, seed: int) -> None:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
