"""What `coprs segment` writes: pictures, and the answer in numbers and words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from coprs_lightning.inference import Answer

RESULTS = "results.jsonl"
SKIPPED = "skipped.jsonl"

_OVERLAY_ALPHA = 0.5


def summary(answer: Answer) -> dict[str, Any]:
    """The answer in numbers and words, as ``result.json`` and the lines of ``results.jsonl`` hold it."""
    import numpy as np

    mask = answer.mask
    peak = np.unravel_index(int(answer.heatmap.argmax()), answer.heatmap.shape)
    return {
        "thought": answer.thought,
        "answer": answer.answer,
        "completion": answer.completion,
        "well_formed": answer.well_formed,
        "truncated": answer.truncated,
        "token_present": answer.present,
        "num_tokens": answer.num_tokens,
        "nothing_fits": answer.nothing_fits,
        "score": answer.score,
        "box_xyxy": _box(mask),
        "area": _area(mask),
        "scores": {
            "mask_probability": float(answer.mask_probability[mask].mean()) if mask.any() else None,
            "heatmap_peak": float(answer.heatmap.max()),
            "heatmap_peak_xy": [int(peak[1]), int(peak[0])] if answer.present else None,
        },
        "objects": [
            {"score": one.score, "box_xyxy": _box(one.mask), "area": _area(one.mask)} for one in answer.objects
        ],
        "image_size": {"width": int(mask.shape[1]), "height": int(mask.shape[0])},
    }


def _box(mask: np.ndarray) -> list[int] | None:
    """Left, top, right and bottom; right and bottom are the first pixels outside."""
    import numpy as np

    rows, columns = np.nonzero(mask)
    if not rows.size:
        return None
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def _area(mask: np.ndarray) -> dict[str, Any]:
    return {"pixels": int(mask.sum()), "share": float(mask.mean())}


def write_pictures(image: np.ndarray, answer: Answer, folder: Path, prefix: str = "") -> dict[str, str]:
    """Write ``mask.png``, ``heatmap.png`` and ``overlay.png``; of several objects also ``object-1.png`` ….

    Args:
        image: (H, W, 3) uint8 RGB.
        answer: what to draw.
        folder: where to; made where it is missing.
        prefix: goes before the files' names.

    Returns:
        names of the files inside ``folder``.
    """
    import numpy as np
    from PIL import Image

    from callbacks.drawing import PREDICTION_COLOR, heatmap_colors, overlay

    pictures = {
        "mask": answer.mask.astype(np.uint8) * 255,
        "heatmap": heatmap_colors(answer.heatmap),
        "overlay": overlay(image, answer.mask, PREDICTION_COLOR, _OVERLAY_ALPHA),
    }
    if len(answer.objects) > 1:
        for number, one in enumerate(answer.objects, 1):
            pictures[f"object-{number}"] = one.mask.astype(np.uint8) * 255
    folder.mkdir(parents=True, exist_ok=True)
    names = {}
    for kind, pixels in pictures.items():
        names[kind] = f"{prefix}{kind}.png"
        Image.fromarray(pixels).save(folder / names[kind])
    stale = len(answer.objects) + 1 if len(answer.objects) > 1 else 1
    while (file := folder / f"{prefix}object-{stale}.png").is_file():  # of an earlier answer with more objects
        file.unlink()
        stale += 1
    return names
