"""The LISA JSON annotation: its texts, and its shapes painted to a target mask and an ignore mask.

The painter's rules are those of the published ReasonSeg numbers: every shape is a polygon whatever its ``shape_type``;
a label ``flag`` drops it, a label that contains ``ignore`` marks pixels to ignore, every other label the target;
shapes are painted by falling pixel area, so that a small one lies on top of a larger one whatever its label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from datamodules.convert.errors import BadItemError
from datamodules.convert.polygons import Rasteriser, check_points, polygon_mask

IgnoreAs = Literal["ignore", "target"]

_TARGET, _IGNORE = 1, 255


@dataclass(frozen=True)
class LisaAnnotation:
    """The checked content of one annotation file.

    Attributes:
        texts: questions or phrases that mean the same target, the original first.
        kind: ``"sentence"`` or ``"phrase"``, ``""`` where the file does not say.
        shapes: points (N, 2) float64 and value (1 target, 255 ignore) of each shape, in the file's order.
        flags: number of shapes dropped for their label ``flag``.
    """

    texts: list[str]
    kind: str
    shapes: list[tuple[np.ndarray, int]]
    flags: int


def parse_annotation(content: Any, name: str) -> LisaAnnotation:
    """Check the parsed JSON of one annotation file.

    Args:
        content: anything.
        name: the file, for errors.

    Raises:
        BadItemError: ``"bad annotation"``, ``"bad text"`` or ``"bad polygon"``, naming the file and the field.
    """
    if not isinstance(content, dict):
        raise BadItemError("bad annotation", f"{name}: expected a JSON object, got {type(content).__name__}")
    for key in ("text", "shapes"):
        if not isinstance(content.get(key), list):
            found = type(content[key]).__name__ if key in content else "nothing"
            raise BadItemError("bad annotation", f"{name}: {key!r} must be a list, got {found}")
    sentence = content.get("is_sentence")
    if not isinstance(sentence, bool | None):
        raise BadItemError("bad annotation", f"{name}: 'is_sentence' must be true or false, got {sentence!r}")
    kind = "" if sentence is None else "sentence" if sentence else "phrase"
    texts = _texts(content["text"], name)
    shapes = [_shape(shape, place, name) for place, shape in enumerate(content["shapes"])]
    kept = [shape for shape in shapes if shape is not None]
    return LisaAnnotation(texts, kind, kept, flags=len(shapes) - len(kept))


def _texts(texts: list[Any], name: str) -> list[str]:
    if not texts:
        raise BadItemError("bad text", f"{name}: 'text' is an empty list, so there is no question")
    for place, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            found = "is empty" if isinstance(text, str) else f"must be a string, got {type(text).__name__}"
            raise BadItemError("bad text", f"{name}: text {place} {found}")
    return [text.strip() for text in texts]


def _shape(shape: Any, place: int, name: str) -> tuple[np.ndarray, int] | None:
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise BadItemError("bad annotation", f"{name}: shape {place} must be an object with a string 'label'")
    label = shape["label"].lower()
    if label == "flag":  # dropped before its points are looked at: real ones have 2
        return None
    try:
        points = check_points(shape.get("points"))
    except ValueError as error:
        raise BadItemError("bad polygon", f"{name}: shape {place} ({shape['label']}): {error}") from error
    return points, _IGNORE if "ignore" in label else _TARGET


def paint_shapes(
    shapes: list[tuple[np.ndarray, int]],
    height: int,
    width: int,
    *,
    ignore_as: IgnoreAs = "ignore",
    rasteriser: Rasteriser = "opencv",
) -> tuple[np.ndarray, np.ndarray]:
    """Paint shapes by falling area; of equal areas, the one that comes first in the file lies on top.

    Args:
        shapes: see :class:`LisaAnnotation`.
        height: of the image.
        width: of the image.
        ignore_as: ``"ignore"`` keeps ignored pixels apart (LISA); ``"target"`` makes them part of the target, as in
            the released ReasonSeg copies of Seg-Zero and VisionReasoner.
        rasteriser: ``opencv`` as published, or ``pycocotools``.

    Returns:
        Target and ignore mask, (H, W) bool each; no pixel is in both.
    """
    painted = [polygon_mask(points.reshape(-1).tolist(), height, width, rasteriser) for points, _ in shapes]
    areas = [int(mask.sum()) for mask in painted]
    canvas = np.zeros((height, width), dtype=np.uint8)
    for place in sorted(range(len(shapes)), key=lambda place: (areas[place], place), reverse=True):
        canvas[painted[place]] = shapes[place][1]
    if ignore_as == "target":
        return canvas > 0, np.zeros((height, width), dtype=bool)
    return canvas == _TARGET, canvas == _IGNORE
