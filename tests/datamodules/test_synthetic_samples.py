"""The synthetic samples: reproducible, exactly masked, and without the held-out pairs where they must not be."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import replace

import numpy as np
import pytest

from datamodules.record_json import check_record
from datamodules.rle import decode_mask
from datamodules.synthetic import REINFORCE_SPLITS, SEVERAL_SPLITS, SPLITS, SyntheticScenes
from datamodules.synthetic.draw import draw
from datamodules.synthetic.scene import Scene, Shape
from datamodules.synthetic.words import COLOURS, FORMS, HELD_OUT

DIGESTS = {
    "train": "354b655b1957e912c89695eaca7569a808bfb7ade822e7aabb0f0a7230d5e7c9",
    "val": "316df3e209db615e6fee29d2fcf16abd08eaa7e7c15b04617aab3543dbbfafdb",
    "test": "33db4f8832e41d99a28beeb1fa932859e6952114533b9a5518cf9468372b979d",
    "generalisation": "976bb59fdccb05f3a79314cc5492f2249013c8e7e1886690bf09f97281f90b65",
}


def test_a_sample_is_a_pure_function_of_seed_split_and_index() -> None:
    first, again = SyntheticScenes(5, "train"), SyntheticScenes(5, "train")
    again.sample(0)
    random.seed(1)
    image, record = again.sample(7)
    expected, expected_record = first.sample(7)
    assert np.array_equal(image, expected)
    assert record == expected_record
    others = [SyntheticScenes(6, "train").sample(7), SyntheticScenes(5, "val").sample(7), first.sample(8)]
    assert all(other.shape != image.shape or not np.array_equal(other, image) for other, _ in others)


def test_records_are_fit_for_shards() -> None:
    shapes = set()
    for index in range(40):
        image, record = SyntheticScenes(0, "val", image_size=96, questions_per_image=3).sample(index)
        check_record(record)
        assert image.dtype == np.uint8
        assert image.shape == (record.height, record.width, 3)
        assert max(image.shape) == 96
        assert len(record.targets) == 3
        assert all(target.reasoning and target.kind for target in record.targets)
        shapes.add(image.shape[:2])
    assert shapes == {(96, 96), (72, 96), (96, 72)}


@pytest.mark.parametrize("split", DIGESTS)
def test_splits_that_were_published_never_change(split: str) -> None:
    """Scenes and questions, from which all else follows: how OpenCV rounds a pixel may change with its version."""
    digest = hashlib.sha256()
    for index in range(60):
        digest.update(repr(SyntheticScenes(0, split).compose(index)).encode())
    assert digest.hexdigest() == DIGESTS[split]


@pytest.mark.parametrize("split", REINFORCE_SPLITS)
def test_records_to_learn_from_reward_hold_masks_but_no_thoughts(split: str) -> None:
    scenes = SyntheticScenes(0, split, image_size=64)
    for index in range(20):
        _, record = scenes.sample(index)
        _, questions = scenes.compose(index)
        check_record(record)
        assert record.key == f"{split}-{index:06d}"
        for target, question in zip(record.targets, questions, strict=True):
            assert target.reasoning is None
            assert target.expressions == [question.text]
            assert target.kind == question.kind
            assert decode_mask(target.masks[0]).any()


def test_masks_hold_the_pixels_of_their_shape() -> None:
    """A pixel belongs to a mask exactly when its colour is nearer to the shape's than to the bare background's."""
    for index in range(40):
        scenes = SyntheticScenes(0, "train")
        scene, questions = scenes.compose(index)
        image, record = scenes.sample(index)
        background, _ = draw(replace(scene, shapes=()))
        for question, target in zip(questions, record.targets, strict=True):
            (number,) = question.targets
            shape = scene.shapes[number]
            mask = decode_mask(target.masks[0])
            near = (
                np.hypot(*(np.indices(mask.shape) - np.array([shape.y, shape.x])[:, None, None])) < 1.3 * shape.radius
            )
            of_shape = np.abs(image.astype(int) - shape.rgb).sum(-1)
            of_background = np.abs(image.astype(int) - background).sum(-1)
            others = np.zeros_like(mask)
            for other, drawn in enumerate(draw(scene)[1]):
                others |= drawn if other != number else False
            alone = near & ~_grown(others)
            assert mask.sum() > 100
            assert not (mask & others).any()
            assert mask[alone & (of_shape < of_background - 6)].all()
            assert not mask[alone & (of_shape > of_background + 6)].any()
            assert np.count_nonzero((image == shape.rgb).all(-1) & mask) > 0.6 * mask.sum()


def test_a_later_shape_covers_an_earlier_one() -> None:
    under = Shape("red", "circle", "big", 40.0, 40.0, 20.0, 0.0, (200, 20, 20))
    over = Shape("blue", "square", "small", 55.0, 40.0, 10.0, 5.0, (20, 40, 200))
    _, (alone,) = draw(Scene(96, 80, (under,), 0))
    image, (covered, top) = draw(Scene(96, 80, (under, over), 0))
    assert alone.sum() == pytest.approx(math.pi * 20**2, rel=0.015)
    assert top.sum() == pytest.approx((2 * 0.88 * 10) ** 2, rel=0.03)
    assert np.array_equal(covered, alone & ~top)
    assert covered.sum() < alone.sum()
    assert tuple(image[40, 55]) == over.rgb


def test_every_form_is_drawn_about_its_centre() -> None:
    for form in FORMS:
        _, (mask,) = draw(Scene(80, 64, (Shape("red", form, "big", 38.5, 33.5, 22.0, 0.0, (200, 20, 20)),), 0))
        rows, columns = np.nonzero(mask)
        assert columns.mean() + 0.5 == pytest.approx(38.5, abs=0.3), form
        assert rows.mean() + 0.5 == pytest.approx(33.5, abs=1.5), form


@pytest.mark.parametrize("split", ["train", "val", "test", *REINFORCE_SPLITS, *SEVERAL_SPLITS])
def test_held_out_pairs_are_in_no_other_split(split: str) -> None:
    seen = {(s.colour, s.form) for index in range(400) for s in SyntheticScenes(0, split).compose(index)[0].shapes}
    assert seen == {(colour, form) for colour in COLOURS for form in FORMS} - set(HELD_OUT)


def test_generalisation_asks_for_held_out_pairs_only() -> None:
    asked = set()
    for index in range(80):
        scene, questions = SyntheticScenes(0, "generalisation").compose(index)
        for question in questions:
            asked |= {(scene.shapes[target].colour, scene.shapes[target].form) for target in question.targets}
            if question.kind not in ("exclusion", "relation"):
                assert (question.sought.colour, question.sought.form) in HELD_OUT
    assert asked == set(HELD_OUT)


def test_sizes_and_grounds_leave_no_doubt() -> None:
    for index in range(100):
        scene, _ = SyntheticScenes(0, "train").compose(index)
        radii = {size: [s.radius for s in scene.shapes if s.size == size] for size in ("small", "big")}
        if radii["small"] and radii["big"]:
            assert min(radii["big"]) > 1.5 * max(radii["small"])
        background, _ = draw(replace(scene, shapes=()))
        assert background.min() > 70
        assert background.max() < 190


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match=f"split must be one of {', '.join(SPLITS)}, got 'dev'"):
        SyntheticScenes(0, "dev")
    with pytest.raises(ValueError, match="image_size must be ≥ 64 pixels, got 32"):
        SyntheticScenes(0, "train", image_size=32)
    with pytest.raises(ValueError, match="questions_per_image must be ≥ 1, got 0"):
        SyntheticScenes(0, "train", questions_per_image=0)
    with pytest.raises(ValueError, match="shares names 'riddle', which is no kind of question"):
        SyntheticScenes(0, "train", shares={"riddle": 1.0})
    with pytest.raises(ValueError, match="shares must be ≥ 0 and not all 0"):
        SyntheticScenes(0, "train", shares={"attribute": 0.0})
    for split in set(SPLITS) - {*REINFORCE_SPLITS, *SEVERAL_SPLITS}:
        with pytest.raises(ValueError, match=f"'unfamiliar' 0.5 in split '{split}', .* to the splits reinforce and"):
            SyntheticScenes(0, split, shares={"attribute": 0.5, "unfamiliar": 0.5})
    with pytest.raises(ValueError, match="shares names 'none', which is no kind of question of split 'train'; kinds"):
        SyntheticScenes(0, "train", shares={"none": 1.0})
    with pytest.raises(ValueError, match="no kind of question of split 'several'; kinds are one, several, none"):
        SyntheticScenes(0, "several", shares={"attribute": 1.0})
    assert len(SPLITS) == 8


def _grown(mask: np.ndarray) -> np.ndarray:
    grown = mask.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            grown |= np.roll(grown, step, axis)
    return grown
