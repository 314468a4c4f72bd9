from __future__ import annotations

import numpy as np
import pytest

from datamodules import rle as rle_module
from datamodules.rle import MAX_PIXELS, decode_mask, encode_mask, instance_masks, mask_runs, union_masks


def random_masks():
    rng = np.random.default_rng(0)
    for number in range(60):
        height, width = (int(side) for side in rng.integers(1, 70, 2))
        yield rng.random((height, width)) < rng.random()
        blob = np.zeros((height, width), dtype=bool)
        blob[: height // 2, number % width :] = True
        yield blob
    yield np.zeros((3, 4), dtype=bool)
    yield np.ones((3, 4), dtype=bool)
    yield np.ones((1, 1), dtype=bool)
    long = np.zeros((2000, 1500), dtype=bool)
    long[-1, -1] = True
    yield long


def test_strings_are_those_of_pycocotools_both_ways():
    from pycocotools import mask as coco

    for mask in random_masks():
        ours = encode_mask(mask)
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}
        decoded = decode_mask(ours)
        assert decoded.dtype == np.bool_
        np.testing.assert_array_equal(decoded, mask)
        np.testing.assert_array_equal(coco.decode(ours).astype(bool), mask)


def test_union():
    left, right = np.zeros((4, 6), dtype=bool), np.zeros((4, 6), dtype=bool)
    left[:, :2], right[:, 1:3] = True, True
    np.testing.assert_array_equal(union_masks([encode_mask(left), encode_mask(right)], 4, 6), left | right)
    assert not union_masks([], 4, 6).any()
    with pytest.raises(ValueError, match="mask of 4 × 6 pixels in an image of 6 × 4"):
        union_masks([encode_mask(left)], 6, 4)


@pytest.mark.parametrize("mask", [np.zeros((2, 2), np.uint8), np.zeros(4, bool), np.zeros((0, 3), bool)])
def test_encode_refuses_other_arrays(mask):
    with pytest.raises(ValueError, match="non-empty"):
        encode_mask(mask)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (None, "a mask must be"),
        ({"size": [2, 2]}, "a mask must be"),
        ({"size": [2], "counts": "4"}, "two positive integers"),
        ({"size": [2, 2.0], "counts": "4"}, "two positive integers"),
        ({"size": [True, 4], "counts": "4"}, "two positive integers"),
        ({"size": [0, 4], "counts": "0"}, "two positive integers"),
        ({"size": [-2, -2], "counts": "4"}, "two positive integers"),
        ({"size": [10**6, 10**6], "counts": "4"}, f"above the limit of {MAX_PIXELS}"),
        ({"size": [2, 2], "counts": b"4"}, "pycocotools gives bytes"),
        ({"size": [2, 2], "counts": [4]}, "compressed string, got list"),
        ({"size": [2, 2], "counts": ""}, "empty"),
        ({"size": [2, 2], "counts": "é"}, "outside ASCII"),
        ({"size": [2, 2], "counts": "4 "}, "outside '0'…'o'"),
        ({"size": [2, 2], "counts": "z"}, "outside '0'…'o'"),
        ({"size": [2, 2], "counts": "4T"}, "break off"),
        ({"size": [2, 2], "counts": "T" * 20 + "0"}, "number of 21 digits"),
        ({"size": [2, 2], "counts": "5"}, "run outside 0…4"),
        ({"size": [2, 2], "counts": "N6"}, "run outside 0…4"),
        ({"size": [2, 2], "counts": "3"}, "add up to 3 pixels"),
        ({"size": [2, 2], "counts": "0440"}, "run outside|add up to"),
    ],
)
def test_hostile_masks_are_errors(rle, message):
    with pytest.raises(ValueError, match=message):
        mask_runs(rle)
    with pytest.raises(ValueError, match=message):
        decode_mask(rle)


def test_random_strings_never_do_worse_than_an_error():
    rng = np.random.default_rng(1)
    alphabet = [chr(code) for code in range(48, 112)]
    for _ in range(500):
        rle = {"size": [9, 9], "counts": "".join(rng.choice(alphabet, rng.integers(1, 30)))}
        try:
            assert decode_mask(rle).shape == (9, 9)
        except ValueError:
            continue


def squares(*corners: int) -> list[dict[str, object]]:
    masks = np.zeros((len(corners), 6, 5), dtype=bool)
    for mask, corner in zip(masks, corners, strict=True):
        mask[corner : corner + 2, :2] = True
    return [encode_mask(mask) for mask in masks]


def test_instances_keep_apart_and_empty_ones_are_none():
    rles = [*squares(0, 3), encode_mask(np.zeros((6, 5), dtype=bool))]
    instances = instance_masks(rles, 6, 5)
    assert instances.shape == (2, 6, 5)
    assert [np.flatnonzero(mask.any(1)).tolist() for mask in instances] == [[0, 1], [3, 4]]
    np.testing.assert_array_equal(union_masks(rles, 6, 5), instances[0] | instances[1])
    assert instance_masks([], 6, 5).shape == (0, 6, 5)
    assert not union_masks([], 6, 5).any()
    with pytest.raises(ValueError, match="mask of 6 × 5 pixels in an image of 5 × 6"):
        instance_masks(rles, 5, 6)


def test_many_instances_of_a_large_image_stay_within_the_limit(monkeypatch):
    monkeypatch.setattr(rle_module, "MAX_INSTANCE_PIXELS", 2 * 30 + 29)
    instances = instance_masks(squares(0, 1, 3, 4), 6, 5)
    assert [np.flatnonzero(mask.any(1)).tolist() for mask in instances] == [[0, 1], [1, 2, 3, 4, 5]]
