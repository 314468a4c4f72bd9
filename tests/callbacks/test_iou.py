"""Logged scores against a loop over examples, alone and on two processes.

What extra metrics compute is held against oracles in tests/metrics; here, that they get what they should.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from callbacks.iou import IoUMetrics
from coprs_lightning.geometry import restore
from coprs_lightning.metrics import BoundaryIoU, BucketIoU, ByKind, ByMaskSize, NoTargetScores, answers, example_scores
from coprs_lightning.prompts import parse_completion
from datamodules.shard_datamodule import ShardDataModule
from tests.callbacks.tiny import FRAME, TinySegmenter, loader, text_of, trainer
from tests.datamodules.build import make_split

REPO = Path(__file__).resolve().parents[2]


def oracle(module, count):
    """Every logged score, from NumPy counts of one example at a time."""
    rows, records = [], []
    for batch in loader(range(count), batch_size=1):
        with torch.no_grad():
            output = module.validation_step(batch, 0)
        truth, ignore = batch.original_masks[0].numpy(), batch.original_ignores[0]
        counted = np.ones_like(truth) if ignore is None else ~ignore.numpy()
        ious, pixels = [], []
        for logits in (output.mask_logits, output.heatmap_logits):
            whole = restore(logits[0], tuple(batch.valid_sizes[0].tolist()), truth.shape, FRAME)
            pred = whole.max(dim=0).values.numpy() > 0
            both, either = (pred & truth & counted).sum(), ((pred | truth) & counted).sum()
            ious.append(both / either if either else 1.0)
            pixels.append((both, either))
        text = output.completions.texts[0]
        empty = not (truth & counted).any()
        rows.append((ious, pixels, text, batch.kinds[0], empty))
        records += [example_scores(answer) for answer in answers(batch, output, FRAME)]
    mask, heatmap = (np.array([row[0][i] for row in rows]) for i in range(2))
    pixels = np.array([row[1] for row in rows]).sum(axis=0)
    texts = [row[2] for row in rows]
    scores = {"giou": mask.mean(), "ciou": pixels[0, 0] / pixels[0, 1], "n": count}
    scores |= {"heatmap_giou": heatmap.mean(), "heatmap_ciou": pixels[1, 0] / pixels[1, 1]}
    scores |= {f"precision@{t}": (mask >= t).mean() for t in (0.5, 0.6, 0.7, 0.8, 0.9)}
    scores["format_rate"] = np.mean([parse_completion(text).well_formed for text in texts])
    scores["token_rate"] = np.mean(["<REF_POS>" in text for text in texts])
    scores["completion_length"] = np.mean([len(text.split()) for text in texts])
    if any(row[4] for row in rows):
        absent = np.array([row[4] for row in rows])
        scores["none_accuracy"] = scores["n_acc"] = mask[absent].mean()
        there = mask[~absent]
        scores["t_acc"] = np.mean([not row["predicted_empty"] for row in records if not row["target_empty"]])
        scores |= {"gres_giou": scores["giou"], "gres_ciou": scores["ciou"], "target_giou": there.mean()}
        scores |= {f"gres_precision@{t}": (there >= t).mean() for t in (0.7, 0.8, 0.9)}
        of_targets = np.array([row[1][0] for row in rows])[~absent].sum(axis=0)
        scores["target_ciou"] = of_targets[0] / of_targets[1]
    for name in ("boundary_iou", "heatmap_inside", "heatmap_entropy", "heatmap_pointing"):
        scores[name] = np.mean([row[name] for row in records if row[name] is not None])
    small = [row["iou"] for row in records if 0 < row["target_pixels"] < 1024]
    scores |= {"giou_by_size/small": np.mean(small), "n_by_size/small": len(small), "truncated_rate": 0}
    for kind in ("color", "position"):
        scores[f"giou/{kind}"] = mask[[row[3] == kind for row in rows]].mean()
    return scores


@pytest.mark.parametrize("stage", ["val", "test"])
def test_logged_scores_equal_the_loop(tmp_path, stage):
    module = TinySegmenter()
    run = trainer(tmp_path, IoUMetrics())
    getattr(run, {"val": "validate", "test": "test"}[stage])(module, loader(range(11), 3), verbose=False)
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    expected = {f"{stage}/{name}": value for name, value in oracle(module, 11).items()}
    assert set(logged) == set(expected)
    assert logged == pytest.approx(expected, abs=1e-12)
    assert 0 < logged[f"{stage}/format_rate"] < 1
    assert 0 < logged[f"{stage}/giou"] < 1


class SeveralSegmenter(TinySegmenter):
    """Three tokens; the confidences say as many as the example's number, modulo 4."""

    def validation_step(self, batch, batch_idx):
        output = super().validation_step(batch, batch_idx)
        numbers = torch.tensor([int(key[-1]) % 4 for key in batch.keys])
        confident = torch.arange(3) < numbers[:, None]
        return replace(
            output,
            heatmap_logits=output.heatmap_logits.repeat(1, 3, 1, 1),
            mask_logits=output.mask_logits.abs().repeat(1, 3, 1, 1) + 1,
            present=output.present.repeat(1, 3),
            confidence_logits=torch.where(confident, 2.0, -2.0),
        )


def test_extra_metrics_are_chosen_and_none_may_hide_another(tmp_path):
    def logged(*extra):
        run = trainer(tmp_path, IoUMetrics(extra=list(extra)))
        run.validate(TinySegmenter(), loader(range(8), 3), verbose=False)
        return set(run.callback_metrics)

    plain = logged()
    assert {"val/giou", "val/heatmap_giou", "val/format_rate", "val/none_accuracy"} <= plain
    assert not plain & {"val/boundary_iou", "val/n_acc", "val/heatmap_inside", "val/giou_by_size/small"}
    assert logged(BoundaryIoU()) == plain | {"val/boundary_iou"}
    by_two = logged(BucketIoU(by=[ByKind(), ByMaskSize()]))
    assert by_two - plain == {
        f"val/{what}_by_{name}" for what in ("giou", "n") for name in ("kind/color", "kind/position", "size/small")
    }
    with pytest.raises(ValueError, match=r"IoUMetrics\.extra: NoTargetScores reports .*n_acc.* another metric"):
        logged(NoTargetScores(), NoTargetScores(min_pixels=50))


def test_extra_metrics_come_from_a_config():
    parser = ArgumentParser()
    parser.add_argument("--iou", type=IoUMetrics | None)
    classes = "coprs_lightning.metrics"
    extra = [
        {"class_path": f"{classes}.NoTargetScores", "init_args": {"min_pixels": 50}},
        {"class_path": f"{classes}.BoundaryIoU", "init_args": {"bootstrap": {"resamples": 20}}},
        {"class_path": f"{classes}.BucketIoU", "init_args": {"by": [{"class_path": f"{classes}.ByMaskShare"}]}},
    ]
    given = {"iou": {"class_path": "callbacks.iou.IoUMetrics", "init_args": {"extra": extra}}}
    made = parser.instantiate(parser.parse_object(given)).iou
    assert [type(metric).__name__ for metric in made.extra] == ["NoTargetScores", "BoundaryIoU", "BucketIoU"]
    assert made.extra[0].min_pixels == 50
    assert made.extra[1].bootstrap.resamples == 20
    assert made.extra[2].by[0].name == "share"
    written = parser.dump(parser.parse_object(given))
    assert parser.parse_string(written).iou.init_args.extra[0].init_args.min_pixels == 50


def test_several_tokens_are_counted_and_none_of_them_is_an_empty_mask(tmp_path):
    run = trainer(tmp_path, IoUMetrics())
    run.validate(SeveralSegmenter(), loader(range(8), 3), verbose=False)
    scores = {name: float(value) for name, value in run.callback_metrics.items()}
    # example 1 has one object and one slot; 5 has neither target nor, wrongly, none; 0 and 4 have none but one object
    assert scores["val/count_accuracy"] == 1 / 8
    assert scores["val/none_accuracy"] == 0
    plain = trainer(tmp_path / "plain", IoUMetrics())
    plain.validate(TinySegmenter(), loader(range(8), 3), verbose=False)
    assert "val/count_accuracy" not in plain.callback_metrics


def test_an_answer_without_a_token_is_an_empty_mask(tmp_path):
    index = 6
    assert "<REF_POS>" not in text_of(f"{index:03d}")
    run = trainer(tmp_path, IoUMetrics(per_kind=False, thresholds=(0.5,)))
    run.validate(TinySegmenter(), loader(range(index, index + 1)), verbose=False)
    scores = {name: float(value) for name, value in run.callback_metrics.items()}
    assert scores["val/giou"] == scores["val/heatmap_giou"] == scores["val/token_rate"] == 0
    assert "val/precision@0.5" in scores
    assert "val/precision@0.6" not in scores
    assert not any(name.startswith("val/giou/") for name in scores)


def test_each_epoch_starts_anew_and_the_sanity_check_leaves_nothing(tmp_path):
    module = TinySegmenter()
    seen = []

    class Watch(EarlyStopping):
        def on_validation_end(self, trainer, pl_module):
            super().on_validation_end(trainer, pl_module)
            if not trainer.sanity_checking:
                seen.append((oracle(pl_module, 5), {k: float(v) for k, v in trainer.callback_metrics.items()}))

    watch = Watch("val/giou", mode="max", patience=10)
    run = trainer(tmp_path, IoUMetrics(), watch, max_epochs=3, num_sanity_val_steps=2)
    run.fit(module, loader(range(6)), loader(range(5)))
    assert len(seen) == 3
    for expected, logged in seen:
        assert logged["val/n"] == 5
        assert {k[4:]: v for k, v in logged.items() if k[:4] == "val/"} == pytest.approx(expected, abs=1e-12)
    assert seen[-1][1]["val/giou"] != seen[0][1]["val/giou"]


def test_the_best_checkpoint_is_found_by_giou(tmp_path):
    best = ModelCheckpoint(tmp_path / "best", monitor="val/giou", mode="max", filename="{step}")
    giou = []

    class Note(IoUMetrics):
        def on_validation_epoch_end(self, trainer, pl_module):
            giou.append(float(self.scores()["giou"]))
            super().on_validation_epoch_end(trainer, pl_module)

    run = trainer(tmp_path, Note(), best, max_epochs=6, enable_checkpointing=True)
    run.fit(TinySegmenter(), loader(range(12)), loader(range(8)))
    assert float(best.best_model_score) == max(giou)
    assert Path(best.best_model_path).name == f"step={6 * (giou.index(max(giou)) + 1)}.ckpt"
    assert max(giou) > 0.7  # it learns
    again = trainer(tmp_path, IoUMetrics())
    again.validate(TinySegmenter(), loader(range(8)), ckpt_path=best.best_model_path, verbose=False)
    assert float(again.callback_metrics["val/giou"]) == max(giou)


def test_a_step_that_returns_something_else_is_named(tmp_path):
    class Wrong(TinySegmenter):
        def validation_step(self, batch, batch_idx):
            return None

    with pytest.raises(TypeError, match=r"evaluation step of Wrong returned NoneType.*Return the SegmentationOutput"):
        trainer(tmp_path, IoUMetrics()).validate(Wrong(), loader(range(2)), verbose=False)


def test_two_uneven_processes_log_what_one_does_and_none_waits_for_the_other(tmp_path):
    """7 and 4 examples, also with every callback at work; 3 and none in a split of one shard."""
    split = make_split(tmp_path / "split", 3)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "PL_GLOBAL_SEED": "3"}
    words = [*command, "-m", "tests.callbacks.two_processes", str(tmp_path)]
    done = subprocess.run(words, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "sync_dist" not in done.stderr  # Lightning's advice to average over processes, which would be wrong here

    data = ShardDataModule(test=str(split), image_size=FRAME)
    for name, given in {"uneven": {"dataloaders": loader(range(11))}, "idle": {"datamodule": data}}.items():
        torch.manual_seed(0)
        run = trainer(tmp_path, IoUMetrics())
        run.test(TinySegmenter(), **given, verbose=False)
        alone = {key: repr(float(value)) for key, value in run.callback_metrics.items()}
        for rank in range(2):
            together = json.loads((tmp_path / f"{name}-{rank}.json").read_text())
            assert together == alone, (name, rank)
        assert not math.isnan(float(alone["test/giou"]))

    results = json.loads((tmp_path / "fit" / "results.json").read_text())
    assert results["n"] == 11
    assert results["seed"] == 3
    record = json.loads((tmp_path / "fit" / "provenance.json").read_text())
    assert (record["status"], record["machine"]["world_size"]) == ("finished", 2)
    assert len(list((tmp_path / "fit" / "panels").rglob("*.png"))) == 2
    assert done.stdout.count("training ended at step 2") == 1
    sampled = tmp_path / "sampled" / "rollouts"
    assert sorted(path.name for path in sampled.iterdir()) == ["completions.jsonl", "step=000001.png"]
    assert sampled.joinpath("completions.jsonl").read_text().count("\n") == 4  # of the first process
