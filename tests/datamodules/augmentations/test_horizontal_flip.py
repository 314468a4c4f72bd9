from __future__ import annotations

import numpy as np
import pytest

from datamodules.augmentations.horizontal_flip import HorizontalFlip
from tests.datamodules.augmentations.examples import make_example

RNG = np.random.default_rng


def test_image_and_all_masks_are_mirrored() -> None:
    example = make_example(instances=np.stack([make_example().mask, make_example().ignore]))
    made = HorizontalFlip(probability=1.0)(example, RNG(0))
    np.testing.assert_array_equal(made.image, np.flip(example.image, 1))
    np.testing.assert_array_equal(made.mask, np.fliplr(example.mask))
    np.testing.assert_array_equal(made.ignore, np.fliplr(example.ignore))
    np.testing.assert_array_equal(made.instances, np.flip(example.instances, 2))


def test_what_the_example_lacks_stays_so() -> None:
    made = HorizontalFlip(probability=1.0)(make_example(ignore=None), RNG(0))
    assert made.ignore is None
    assert made.instances is None


@pytest.mark.parametrize("told", [{"question": "lft dog"}, {"reasoning": "The dog is west of the man."}])
def test_texts_with_a_side_are_not_mirrored(told: dict[str, str]) -> None:
    example = make_example(**told)
    assert HorizontalFlip(probability=1.0)(example, RNG(0)) is example


def test_the_probability_is_kept() -> None:
    example = make_example()
    flipped = sum(HorizontalFlip(probability=0.3)(example, RNG(seed)) is not example for seed in range(400))
    assert 90 < flipped < 150
    assert HorizontalFlip(probability=0.0)(example, RNG(0)) is example


def test_a_probability_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"HorizontalFlip\.probability must be in \[0, 1\], got -0\.1"):
        HorizontalFlip(probability=-0.1)
