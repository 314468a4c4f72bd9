"""The folder that `coprs explain` writes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from coprs_lightning.explain.explanation import Explanation, HeadMap, Reading
from coprs_lightning.explain.influence import agreement

SHEET, PAGE, NUMBERS = "explanation.png", "explanation.html", "explanation.json"
DRAWING, LOGITS = "heatmap.png", "heatmap.npy"


def as_plain(explanation: Explanation) -> dict[str, Any]:
    """The explanation in numbers and words, as ``explanation.json`` holds it."""
    height, width = explanation.image.shape[:2]
    return {
        "question": explanation.question,
        "image_size": {"width": width, "height": height},
        "findings": explanation.findings,
        "answer": _reading(explanation.original),
        "counterfactuals": [_reading(one) for one in explanation.counterfactuals],
        "truncated": explanation.truncated,
        "num_tokens": explanation.num_tokens,
        "num_slots": explanation.num_slots,
        "has_decoder": explanation.has_decoder,
        "gradient": {
            "region": explanation.region,
            "heatmap_share_inside": explanation.region_share,
            "mask_soft_iou": explanation.soft_iou,
            "agreement_with_left_out": agreement(explanation.words),
        },
        "drawn_logits": asdict(explanation.levels),
        "head_maps": [_map(one) for one in explanation.head_maps],
        "tokens": [asdict(word) for word in explanation.words],
        "prompt_tokens": [asdict(word) for word in explanation.prompt],
    }


def _reading(reading: Reading) -> dict[str, Any]:
    return {
        "name": reading.name,
        "completion": reading.completion,
        "thought": reading.thought,
        "token_present": reading.present,
        "objects": reading.objects,
        "heatmap_peak": float(reading.heatmap.max()),
        "heatmap_share_above_half": float(reading.before.mean()),
        "mask_share": float(reading.mask.mean()),
        "iou_before_and_after_decoder": reading.decoder_iou,
        "iou_with_answer": reading.iou,
        "iou_with_target": reading.iou_target,
        "heatmap_iou_with_target": reading.before_iou_target,
        "heatmap_share_in_target": reading.inside_target,
    }


def _map(one: HeadMap) -> dict[str, Any]:
    peak = np.unravel_index(int(one.values.argmax()), one.values.shape)
    return {
        "name": one.name,
        "token": one.slot,
        "least": float(one.values.min()),
        "most": float(one.values.max()),
        "most_xy": [int(peak[1]), int(peak[0])],
    }


def write(explanation: Explanation, folder: Path, *, checkpoint: str = "", image: str = "") -> list[str]:
    """Write sheet, page and numbers; and the heatmap in two forms that ``--heatmap`` takes back.

    Args:
        explanation: what to write.
        folder: where to; made where it is missing.
        checkpoint: name of the model, for the reader.
        image: name of the image, likewise.

    Returns:
        names of the files.
    """
    from PIL import Image

    from callbacks.drawing import save_pixels
    from callbacks.files import write_json
    from coprs_lightning.explain.page import page
    from coprs_lightning.explain.sheet import sheet

    folder.mkdir(parents=True, exist_ok=True)
    facts = [(label, value) for label, value in (("image", image), ("checkpoint", checkpoint)) if value]
    save_pixels(sheet(explanation, " · ".join(value for _, value in facts)), folder / SHEET)
    (folder / PAGE).write_text(page(explanation, facts), encoding="utf-8", errors="replace")
    write_json(folder / NUMBERS, {**dict(facts), **as_plain(explanation)})
    for name in (DRAWING, LOGITS):
        (folder / name).unlink(missing_ok=True)  # of an earlier answer that had a heatmap
    if not len(explanation.heatmap_logits):
        return [SHEET, PAGE, NUMBERS]
    grey = np.rint(explanation.original.heatmap * 255).astype(np.uint8)
    Image.fromarray(grey).save(folder / DRAWING)
    np.save(folder / LOGITS, explanation.heatmap_logits)
    return [SHEET, PAGE, NUMBERS, DRAWING, LOGITS]
