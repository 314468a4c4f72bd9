"""Shows images from farther away or from closer by."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from coprs_lightning.structures import Example
from datamodules.augmentations.base import Augmentation
from datamodules.augmentations.language import place_word, texts_of


class _View(NamedTuple):
    """A part of the image, and the part of the new image that shows it; both (top, left, height, width)."""

    source: tuple[int, int, int, int]
    shown: tuple[int, int, int, int]


class ScaleJitter(Augmentation):
    """Scales an image by a random factor; the new one has the same size and shows the whole target.

    Below 1 the image becomes smaller and is padded with black at a random place. Above 1 a random part with the whole
    target is enlarged, less than asked where the target would not fit. Where question or reasoning tell a place, a
    relation or a comparison ("leftmost", "behind the car", "the biggest", see
    :func:`datamodules.augmentations.language.place_word`), nothing is cut off and the image stays in the middle.
    An example whose target, or one of its objects, would vanish stays as it is.

    Args:
        minimum: smallest factor.
        maximum: largest factor.
    """

    def __init__(self, *, minimum: float = 0.75, maximum: float = 1.33) -> None:
        if not 0 < minimum <= 1 <= maximum:
            raise ValueError(
                f"ScaleJitter needs 0 < minimum ≤ 1 ≤ maximum, got minimum={minimum} and maximum={maximum}."
            )
        self.minimum = minimum
        self.maximum = maximum

    def change(self, example: Example, rng: np.random.Generator) -> Example:
        """The example in another size."""
        scale = math.exp(rng.uniform(math.log(self.minimum), math.log(self.maximum)))
        place = rng.random(2)
        told = place_word(texts_of(example)) is not None
        if scale < 1:
            view = _smaller(example.mask.shape, scale, np.full(2, 0.5) if told else place)
        elif told:
            return example
        else:
            view = _larger(example.mask, scale, place)
        return _shown(example, view)


def _smaller(size: tuple[int, ...], scale: float, place: np.ndarray) -> _View:
    height, width = size
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (round(float(share) * (whole - part)) for share, whole, part in zip(place, size, inner, strict=True))
    return _View((0, 0, height, width), (top, left, *inner))


def _larger(mask: np.ndarray, scale: float, place: np.ndarray) -> _View:
    """The largest allowed part that holds the target has the image's proportions, so nothing is distorted."""
    height, width = mask.shape
    target = np.argwhere(mask)
    first, last = (target.min(0), target.max(0) + 1) if len(target) else (np.zeros(2), np.zeros(2))
    share = max(1 / scale, *((last - first) / (height, width)))
    part = math.ceil(height * share), math.ceil(width * share)
    starts = []
    for axis in range(2):
        most = mask.shape[axis] - part[axis]
        earliest = max(0, int(last[axis]) - part[axis])
        latest = min(most, int(first[axis])) if len(target) else most
        starts.append(earliest + round(float(place[axis]) * (latest - earliest)))
    return _View((starts[0], starts[1], *part), (0, 0, height, width))


def _shown(example: Example, view: _View) -> Example:
    instances = None if example.instances is None else np.stack([_mask(one, view) for one in example.instances])
    mask = _mask(example.mask, view) if instances is None else np.asarray(instances.any(0))
    vanished = not mask.any() and example.mask.any()
    if vanished or (instances is not None and not instances.any((1, 2)).all()):
        return example
    return replace(
        example,
        image=_resized(example.image, view),
        mask=mask,
        ignore=None if example.ignore is None else _mask(example.ignore, view),
        instances=instances,
    )


def _mask(mask: np.ndarray, view: _View) -> np.ndarray:
    """A pixel belongs to the mask where at least half of what it shows does."""
    return _resized(mask.astype(np.uint8) * 255, view) >= 128


def _resized(pixels: np.ndarray, view: _View) -> np.ndarray:
    import cv2

    top, left, height, width = view.source
    part = pixels[top : top + height, left : left + width]
    top, left, height, width = view.shown
    smaller = height < part.shape[0]
    resized = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    canvas = np.zeros_like(pixels)
    canvas[top : top + height, left : left + width] = resized
    return canvas
