from __future__ import annotations

import numpy as np
import pytest

from datamodules.augmentations.scale_jitter import ScaleJitter
from tests.datamodules.augmentations.examples import make_example

RNG = np.random.default_rng
CLOSER = ScaleJitter(minimum=1.0, maximum=3.0)
FARTHER = ScaleJitter(minimum=0.4, maximum=1.0)


def painted(**changes: object):  # type: ignore[no-untyped-def]
    """An example whose target is white, so that a mask can be compared with what is seen."""
    example = make_example(**changes)
    example.image = np.where(example.mask[..., None], np.uint8(255), np.uint8(10)).repeat(3, 2)
    return example


@pytest.mark.parametrize("change", [CLOSER, FARTHER])
def test_masks_follow_the_image(change: ScaleJitter) -> None:
    for seed in range(30):
        example = painted()
        made = change(example, RNG(seed))
        assert made.image.shape == example.image.shape
        seen = made.image[..., 0] > 132
        assert (seen != made.mask).mean() < 0.01


def test_the_whole_target_is_always_shown() -> None:
    for seed in range(60):
        example = make_example()
        made = CLOSER(example, RNG(seed))
        red, green = made.image[made.mask][:, 0].astype(int), made.image[made.mask][:, 1].astype(int)
        assert red.min() <= 5 * 255 // 60 + 5
        assert red.max() >= 24 * 255 // 60 - 5
        assert green.min() <= 10 * 255 // 40 + 7
        assert green.max() >= 19 * 255 // 40 - 7
        assert made.mask.sum() >= example.mask.sum() - 1


def test_a_target_as_large_as_the_image_is_not_enlarged() -> None:
    example = make_example(mask=np.ones((40, 60), bool), ignore=None)
    np.testing.assert_array_equal(CLOSER(example, RNG(0)).image, example.image)


def test_an_image_without_the_object_may_be_enlarged_anywhere() -> None:
    example = make_example(mask=np.zeros((40, 60), bool), ignore=None)
    made = [CLOSER(example, RNG(seed)) for seed in range(10)]
    assert not any(one.mask.any() for one in made)
    assert len({one.image.tobytes() for one in made}) == 10


def test_smaller_images_are_padded_with_black() -> None:
    made = FARTHER(make_example(), RNG(3))
    shown = made.image[..., 2] == 40
    rows, columns = shown.any(1).nonzero()[0], shown.any(0).nonzero()[0]
    assert shown.sum() == len(rows) * len(columns) < shown.size
    assert not made.image[~shown].any()
    assert not (made.mask & ~shown).any()
    assert not (made.ignore & ~shown).any()
    assert len(columns) / len(rows) == pytest.approx(1.5, rel=0.06)


@pytest.mark.parametrize("told", [{"question": "leftmost dog"}, {"reasoning": "It lies under the table."}])
def test_nothing_is_cut_off_where_places_are_told(told: dict[str, str]) -> None:
    example = make_example(**told)
    assert all(CLOSER(example, RNG(seed)) is example for seed in range(20))
    for seed in range(20):  # and the image stays in the middle
        shown = FARTHER(example, RNG(seed)).image[..., 2] == 40
        for axis in range(2):
            found = shown.any(1 - axis).nonzero()[0]
            assert abs(found[0] - (shown.shape[axis] - 1 - found[-1])) <= 1


def test_a_target_that_would_vanish_keeps_its_example() -> None:
    dot = np.zeros((40, 60), bool)
    dot[3, 3] = True
    example = make_example(mask=dot)
    assert FARTHER(example, RNG(2)) is example
    objects = np.stack([make_example().mask, dot])
    several = make_example(mask=objects.any(0), instances=objects)
    assert FARTHER(several, RNG(2)) is several


def test_instances_stay_the_parts_of_the_mask() -> None:
    objects = np.zeros((2, 40, 60), bool)
    objects[0, 4:14, 5:20] = True
    objects[1, 20:30, 30:50] = True
    example = make_example(mask=objects.any(0), instances=objects)
    for change in (CLOSER, FARTHER):
        made = change(example, RNG(1))
        np.testing.assert_array_equal(made.mask, made.instances.any(0))
        assert made.instances.any((1, 2)).all()


@pytest.mark.parametrize(("minimum", "maximum"), [(0.0, 1.5), (1.1, 1.5), (0.5, 0.9)])
def test_factors_are_checked(minimum: float, maximum: float) -> None:
    with pytest.raises(ValueError, match=rf"0 < minimum ≤ 1 ≤ maximum, got minimum={minimum} and maximum={maximum}"):
        ScaleJitter(minimum=minimum, maximum=maximum)
