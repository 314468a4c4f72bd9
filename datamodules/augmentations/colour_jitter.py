"""Changes light and colours a little."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coprs_lightning.structures import Example
from datamodules.augmentations.base import Augmentation, check_share
from datamodules.augmentations.language import colour_word, texts_of

_MODEST = 0.2
"""Most that brightness, contrast and saturation change where a text names colours: red stays red, dark stays dark."""


class ColourJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue at random, each by a factor of its own.

    Where question or reasoning name a colour, the hue stays as it is and the others change by at most 0.2, see
    :func:`datamodules.augmentations.language.colour_word`.

    Args:
        brightness: pixels are multiplied by 1 − this … 1 + this.
        contrast: the same for their distance from the mean grey.
        saturation: the same for their distance from their own grey.
        hue: colours turn by up to this share of the colour circle, in either direction; 0.5 reaches all.
    """

    def __init__(
        self, *, brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2, hue: float = 0.02
    ) -> None:
        check_share(self, brightness=brightness, contrast=contrast, saturation=saturation)
        if not 0 <= hue <= 0.5:
            raise ValueError(f"ColourJitter.hue must be in [0, 0.5], got {hue}.")
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def change(self, example: Example, rng: np.random.Generator) -> Example:
        """The example with other colours; masks stay."""
        named = colour_word(texts_of(example)) is not None
        limit = _MODEST if named else 1.0
        strengths = (min(limit, value) for value in (self.brightness, self.contrast, self.saturation))
        brightness, contrast, saturation = (rng.uniform(1 - value, 1 + value) for value in strengths)
        turn = rng.uniform(-self.hue, self.hue)
        image = _relit(example.image, brightness, contrast, saturation)
        if not named and turn:
            image = _turned(image, turn)
        return replace(example, image=image)


def _relit(image: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """All three are linear in a pixel and its grey: one pass, and one rounding."""
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mean = float(cv2.mean(grey)[0])
    own = brightness * contrast * saturation
    shared = brightness * contrast * (1 - saturation)
    return np.asarray(
        cv2.addWeighted(image, own, cv2.merge([grey] * 3), shared, brightness * (1 - contrast) * mean),
    )


def _turned(image: np.ndarray, turn: float) -> np.ndarray:
    import cv2

    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # a circle of 256 steps, so that uint8 wraps as hues do
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL))
