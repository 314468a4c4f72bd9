from __future__ import annotations

import colorsys

import numpy as np
import pytest

from datamodules.augmentations.colour_jitter import ColourJitter
from tests.datamodules.augmentations.examples import make_example

RNG = np.random.default_rng
STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def plain(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((8, 8, 3), colour, np.uint8)


def hue_of(image: np.ndarray) -> float:
    return colorsys.rgb_to_hsv(*image[0, 0] / 255)[0]


def test_nothing_changes_without_strength() -> None:
    example = make_example()
    np.testing.assert_array_equal(ColourJitter(**STILL)(example, RNG(0)).image, example.image)


def test_brightness_multiplies() -> None:
    example = make_example(image=plain((100, 50, 20)))
    factors = [
        ColourJitter(**{**STILL, "brightness": 0.5})(example, RNG(seed)).image[0, 0, 0] / 100 for seed in range(40)
    ]
    assert 0.5 <= min(factors) < 0.65
    assert 1.35 < max(factors) <= 1.5
    made = ColourJitter(**{**STILL, "brightness": 0.5})(example, RNG(1)).image[0, 0]
    np.testing.assert_allclose(made / made[0], [1, 0.5, 0.2], atol=0.02)


def test_contrast_keeps_the_mean_and_saturation_the_grey() -> None:
    example = make_example(image=np.concatenate([plain((60, 60, 60)), plain((140, 140, 140))]))
    made = [ColourJitter(**{**STILL, "contrast": 0.5})(example, RNG(seed)).image.astype(int) for seed in range(20)]
    assert all(abs(image.mean() - 100) <= 1 for image in made)
    assert (
        min(image.max() - image.min() for image in made) < 60 < 100 < max(image.max() - image.min() for image in made)
    )
    grey = [ColourJitter(**{**STILL, "saturation": 1.0})(example, RNG(seed)).image for seed in range(5)]
    assert all(np.abs(image.astype(int) - example.image).max() <= 1 for image in grey)
    coloured = make_example(image=plain((200, 100, 100)))
    spread = [
        np.ptp(ColourJitter(**{**STILL, "saturation": 1.0})(coloured, RNG(seed)).image[0, 0].astype(int))
        for seed in range(40)
    ]
    assert min(spread) < 15
    assert max(spread) > 170


def test_the_hue_turns_both_ways_and_wraps() -> None:
    example = make_example(image=plain((200, 40, 40)))  # red, at the circle's beginning
    hues = [hue_of(ColourJitter(**{**STILL, "hue": 0.25})(example, RNG(seed)).image) for seed in range(60)]
    turns = [hue if hue < 0.5 else hue - 1 for hue in hues]
    assert -0.26 < min(turns) < -0.18
    assert 0.18 < max(turns) < 0.26


def test_what_colour_words_say_stays_true() -> None:
    example = make_example("the red dog", image=plain((200, 40, 40)))
    wild = ColourJitter(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
    for seed in range(40):
        made = wild(example, RNG(seed)).image
        red, green, blue = made[0, 0].astype(int)
        assert abs(green - blue) <= 2  # the hue stayed
        assert red > 2.2 * green
        assert red > 100
    reasoned = make_example("the dog", reasoning="It is the red one.", image=plain((200, 40, 40)))
    np.testing.assert_array_equal(wild(reasoned, RNG(4)).image, wild(example, RNG(4)).image)


def test_masks_stay() -> None:
    example = make_example()
    made = ColourJitter()(example, RNG(0))
    assert made.mask is example.mask
    assert made.ignore is example.ignore


def test_strengths_are_checked() -> None:
    with pytest.raises(ValueError, match=r"ColourJitter\.contrast must be in \[0, 1\], got 1\.1"):
        ColourJitter(contrast=1.1)
    with pytest.raises(ValueError, match=r"ColourJitter\.hue must be in \[0, 0\.5\], got 0\.6"):
        ColourJitter(hue=0.6)
