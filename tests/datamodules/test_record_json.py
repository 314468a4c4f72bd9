from __future__ import annotations

import json

import pytest

from datamodules.record_json import check_key, check_record, record_from_json
from datamodules.records import ImageRecord, Target
from tests.datamodules.build import make_sample


def test_round_trip():
    record, _ = make_sample(3, targets=2, expressions=2)
    record.targets[1].distractors = 2
    assert record_from_json(record.key, json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "a\\b", "a b", "a\nb", "__meta", "x" * 201, "a\x00"])
def test_bad_keys(key):
    with pytest.raises(ValueError, match="cannot name a sample"):
        check_key(key)


def test_good_keys():
    check_key("COCO_train2014_000000000009")
    check_key("图像-7")


def changed(**fields):
    record, _ = make_sample(0)
    return ImageRecord(**{**vars(record), **fields})


def with_target(**fields):
    record, _ = make_sample(0)
    return changed(targets=[Target(**{**vars(record.targets[0]), **fields})])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (changed(height=0), "image size 0 × 32"),
        (changed(height=10**5, width=10**4), "is outside 1…100000000 pixels"),
        (changed(targets=[]), "has no target"),
        (changed(targets=make_sample(0)[0].targets * 2), "target id '0' is empty or used twice"),
        (changed(height=32, width=24), r"mask of 24 × 32 pixels in an image of 32 × 24 .*exchanged"),
        (with_target(target_id=""), "target id '' is empty"),
        (with_target(expressions=[]), "has no expression"),
        (with_target(expressions=["a", "  "]), "has an empty expression"),
        (with_target(expressions=["a", "why " * 2500]), "an expression has 10000 characters, more than 2000"),
        (with_target(masks=[{"size": [24, 32], "counts": "0"}]), "add up to 0 pixels"),
        (with_target(ignore={"size": [24, 31], "counts": "0"}), "add up to 0 pixels"),
    ],
)
def test_bad_records_name_the_key(record, message):
    with pytest.raises(ValueError, match=f"'img00000'.*{message}"):
        check_record(record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: None, "expected a JSON object, got NoneType"),
        (lambda content: content | {"height": True}, "field 'height' must be int, got bool"),
        (lambda content: content | {"targets": {}}, "field 'targets' must be list, got dict"),
        (lambda content: {"height": 3}, "field 'image_id' must be str, got nothing"),
        (lambda content: content | {"targets": [3]}, "target 0: expected a JSON object, got int"),
        (lambda content: content | {"targets": [content["targets"][0] | {"expressions": [3]}]}, "list of strings"),
        (
            lambda content: content | {"targets": [content["targets"][0] | {"reasoning": 3}]},
            "reasoning must be",
        ),
        (lambda content: content | {"targets": [content["targets"][0] | {"masks": [3]}]}, "a mask must be"),
        (
            lambda content: content | {"targets": [content["targets"][0] | {"distractors": -1}]},
            "distractors must be a number of objects or null, got -1",
        ),
        (
            lambda content: content | {"targets": [content["targets"][0] | {"distractors": True}]},
            "distractors must be a number of objects or null, got True",
        ),
    ],
)
def test_untrusted_json(change, message):
    record, _ = make_sample(0)
    with pytest.raises(ValueError, match=f"'img00000'.*{message}"):
        record_from_json(record.key, change(record.to_json()))
