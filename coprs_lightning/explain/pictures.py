"""The pictures of an explanation as pixels, for the sheet and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from callbacks.drawing import PREDICTION_COLOR, TRUTH_COLOR, heatmap_colors, overlay
from coprs_lightning.explain.explanation import Explanation, Reading

ANSWER_COLOR = (255, 200, 40)
"""Of the answer as it is, beside other masks."""

_SIDE = 400
"""Pixels of the longer side of every picture."""

_SATURATED = 0.98
"""Share of a map that is shown in proportion; peaks of gradients are so high and small that nothing else would be."""

Contour = tuple[np.ndarray, tuple[int, int, int]]


@dataclass(frozen=True)
class Picture:
    """One picture with its words.

    Attributes:
        title: above it.
        caption: below it.
        pixels: (h, w, 3) uint8 RGB.
    """

    title: str
    caption: str
    pixels: np.ndarray


@dataclass(frozen=True)
class Section:
    """Pictures that belong together.

    Attributes:
        title: heading.
        remark: how to read them.
        pictures: in their order.
    """

    title: str
    remark: str
    pictures: list[Picture]


def sections(explanation: Explanation) -> list[Section]:
    """All pictures, from the answer to what it would have been otherwise."""
    found = [
        Section("The answer", "before the decoder, the mask is where the heatmap is above 0.5", _answer(explanation)),
        _maps(explanation),
    ]
    outline = "yellow contour: the answer as it is" if explanation.target is None else "green contour: the target"
    remark = f"each time one thing is changed, and everything after it computed anew; {outline}"
    others = [picture for other in explanation.counterfactuals for picture in _reading(explanation, other)]
    found.append(Section("What if", remark, others))
    return [section for section in found if section.pictures]


def _answer(explanation: Explanation) -> list[Picture]:
    own, target = explanation.original, explanation.target
    image = display(explanation.image)
    truth: list[Contour] = [] if target is None else [(target, TRUTH_COLOR)]
    seen = Picture("image", "" if target is None else "contour: target", drawn(image, truth))
    heatmap = Picture("heatmap", _peak(own), drawn(_heat(image, own.heatmap), truth))
    before = _tinted(image, own.before, truth)
    after = _tinted(image, own.mask, truth)
    to_target = "" if own.iou_target is None else f"IoU with target {own.iou_target:.2f} · "
    before_to = "" if own.before_iou_target is None else f"IoU with target {own.before_iou_target:.2f} · "
    return [
        seen,
        heatmap,
        Picture("mask before the decoder", before_to + _share(own.before), before),
        Picture("mask after the decoder", to_target + _share(own.mask), after),
    ]


def _maps(explanation: Explanation) -> Section:
    several = len({one.slot for one in explanation.head_maps}) > 1
    pictures = [
        Picture(
            f"{one.name}, token {one.slot}" if several else one.name,
            f"{one.values.min():.2f} … {one.values.max():.2f}",
            _signed(one.values, explanation.original.mask),
        )
        for one in explanation.head_maps
    ]
    if explanation.heatmap_gradient is not None:
        caption = f"soft IoU {explanation.soft_iou:.2f} with the {explanation.region}"
        pictures.append(
            Picture(
                f"gradient of mask → {explanation.region}",
                caption,
                _signed(explanation.heatmap_gradient, explanation.original.mask),
            )
        )
    remark = (
        "red above 0, blue below, each map on a scale of its own (the strongest 2 % are all as dark); contour: mask. "
        "The gradient is red where more heatmap would help the mask"
    )
    return Section("Inside the heatmap head, and what the decoder listens to", remark, pictures)


def _reading(explanation: Explanation, other: Reading) -> list[Picture]:
    image = display(explanation.image)
    outline: list[Contour] = [(explanation.original.mask, ANSWER_COLOR)]
    truth: list[Contour] = [] if explanation.target is None else [(explanation.target, TRUTH_COLOR)]
    caption = f"IoU with answer {other.iou:.2f}"
    if other.iou_target is not None:
        caption += f", with target {other.iou_target:.2f}"
    return [
        Picture(other.name, _peak(other), drawn(_heat(image, other.heatmap), truth or outline)),
        Picture("→ mask", caption, _tinted(image, other.mask, truth or outline)),
    ]


def _peak(reading: Reading) -> str:
    if not reading.present:
        return "no concentration token, no heatmap"
    if not reading.objects:
        return "no token is confident of an object"
    inside = "" if reading.inside_target is None else f", {reading.inside_target:.0%} in the target"
    return f"peak {reading.heatmap.max():.2f}{inside}"


def _share(mask: np.ndarray) -> str:
    return f"{mask.mean():.1%} of image" if mask.any() else "empty"


def display(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) with its longer side as long as that of every picture."""
    import cv2

    scale = _SIDE / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))


def _shown(mask: np.ndarray) -> np.ndarray:
    return display(mask.astype(np.float32)) > 0.5


def _heat(image: np.ndarray, probability: np.ndarray) -> np.ndarray:
    gray = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2) * 0.45
    return np.clip(gray + heatmap_colors(display(probability)) * 0.75, 0, 255).astype(np.uint8)


def _tinted(image: np.ndarray, mask: np.ndarray, contours: Sequence[Contour]) -> np.ndarray:
    return drawn(overlay(image, _shown(mask), PREDICTION_COLOR, 0.5), [*contours, (mask, PREDICTION_COLOR)])


def _signed(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A map as red (above 0) and blue (below), with the contour of the mask."""
    from matplotlib import colormaps

    limit = float(np.quantile(np.abs(values), _SATURATED)) or float(np.abs(values).max()) or 1.0
    colours = colormaps["RdBu_r"](np.clip(display(values) / limit, -1, 1) / 2 + 0.5, bytes=True)[..., :3]
    return drawn(np.ascontiguousarray(colours), [(mask, (40, 40, 40))])


def drawn(pixels: np.ndarray, contours: Sequence[Contour]) -> np.ndarray:
    """Pixels of a display with the contours of masks of the image's size, each on a white line."""
    import cv2

    pixels = pixels.copy()
    for mask, colour in contours:
        lines, _ = cv2.findContours(_shown(mask).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for width, ink in ((4, (255, 255, 255)), (2, colour)):
            cv2.drawContours(pixels, lines, -1, ink, width, cv2.LINE_AA)
    return pixels
