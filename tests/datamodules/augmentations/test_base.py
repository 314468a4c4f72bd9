from __future__ import annotations

import numpy as np
import pytest

from coprs_lightning.spec import build
from datamodules.augmentations.base import Augmentation, check_share
from datamodules.augmentations.colour_jitter import ColourJitter
from datamodules.augmentations.horizontal_flip import HorizontalFlip
from datamodules.augmentations.scale_jitter import ScaleJitter
from tests.datamodules.augmentations.examples import make_example

EVERY = [HorizontalFlip(probability=1.0), ColourJitter(brightness=0.5), ScaleJitter(minimum=0.5, maximum=1.0)]


@pytest.mark.parametrize("change", EVERY, ids=lambda change: type(change).__name__)
class TestEvery:
    def test_it_is_a_function_of_example_and_generator_and_writes_to_no_array(self, change: Augmentation) -> None:
        example = make_example(instances=np.stack([make_example().mask] * 2))
        before = [example.image.copy(), example.mask.copy(), example.ignore.copy(), example.instances.copy()]
        made = [change(example, np.random.default_rng(seed)) for seed in (1, 1)]
        for name in ("image", "mask", "ignore", "instances"):
            np.testing.assert_array_equal(getattr(made[0], name), getattr(made[1], name))
            assert getattr(made[0], name).flags.c_contiguous
        assert (made[0].image != example.image).any()
        for left, now in zip(before, (example.image, example.mask, example.ignore, example.instances), strict=True):
            np.testing.assert_array_equal(left, now)
        assert (made[0].key, made[0].question) == (example.key, example.question)

    def test_features_of_the_unchanged_image_are_refused(self, change: Augmentation) -> None:
        example = make_example(features=np.zeros((2, 3, 3), np.float16))
        with pytest.raises(
            ValueError, match=rf"augmentations: {type(change).__name__} cannot change 'a/0', whose features"
        ):
            change(example, np.random.default_rng(0))

    def test_it_is_rebuilt_from_its_spec(self, change: Augmentation) -> None:
        again = build(change.spec)
        assert again.spec == change.spec
        example = make_example()
        expected = change(example, np.random.default_rng(3)).image
        np.testing.assert_array_equal(again(example, np.random.default_rng(3)).image, expected)


def test_shares_are_checked() -> None:
    with pytest.raises(ValueError, match=r"HorizontalFlip\.chance must be in \[0, 1\], got 1\.5"):
        check_share(HorizontalFlip(), chance=1.5)
