"""gIoU by bucket, against a loop."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pytest
import torch

from coprs_lightning.metrics import BucketIoU, ByDistractors, ByKind, ByMaskShare, ByMaskSize, ByObjects, ByTable
from coprs_lightning.metrics.buckets import distractor_bucket, share_bucket, size_bucket
from tests.metrics.random_examples import random_answer


def test_scores_equal_the_loop(tmp_path, record_property):
    table = {f"{seed:03d}": seed % 3 for seed in range(0, 40, 2)}
    (tmp_path / "difficulty.json").write_text(json.dumps(table))
    by = [ByMaskSize(), ByMaskShare(limits=(0.1, 0.3)), ByKind(), ByObjects(), ByDistractors()]
    metric = BucketIoU(by=[*by, ByTable(name="difficulty", file=str(tmp_path / "difficulty.json"))])
    groups = defaultdict(list)
    for seed in range(40):
        answer = random_answer(seed)
        metric.take(answer)
        counted = np.ones(answer.target.shape, bool) if answer.ignore is None else ~answer.ignore.numpy()
        pred, target = answer.marked.numpy() & counted, answer.target.numpy() & counted
        either = (pred | target).sum()
        iou = (pred & target).sum() / either if either else 1.0
        pixels = target.sum()
        if pixels:
            groups["size/" + ("small" if pixels < 1024 else "medium" if pixels < 9216 else "large")].append(iou)
            share = pixels / target.size
            name = "0-10" if share < 0.1 else "10-30" if share < 0.3 else "30-100"
            groups[f"share/{name}_percent"].append(iou)
        if seed % 3:
            groups["kind/" + ("position", "attribute")[seed % 3 - 1]].append(iou)
        groups[f"objects/{seed % 4}"].append(iou)
        if seed % 2 == 0:
            groups[f"difficulty/{seed % 3}"].append(iou)
        if seed % 3 == 0:
            groups[f"distractors/{seed % 9 if seed % 9 < 5 else '5_or_more'}"].append(iou)
    expected = {f"giou_by_{name}": np.mean(ious) for name, ious in groups.items()}
    expected |= {f"n_by_{name}": len(ious) for name, ious in groups.items()}
    got = {name: float(value) for name, value in metric.compute().items()}
    assert set(got) == set(expected)
    assert {"giou_by_size/small", "giou_by_size/medium", "giou_by_share/0-10_percent"} <= set(got)
    differences = [abs(got[name] - value) for name, value in expected.items()]
    record_property("largest_difference", float(max(differences)))
    assert max(differences) < 1e-14


def test_limits_belong_to_the_larger_bucket():
    sizes = [0, 1, 1023, 1024, 9215, 9216, 10**6]
    assert [size_bucket(n) for n in sizes] == ["", "small", "small", "medium", "medium", "large", "large"]
    found = [distractor_bucket(n) for n in (None, 0, 4, 5, 6)]
    assert found == ["", "0", "4", "5_or_more", "5_or_more"]
    shares = [0, 1, 9, 10, 49, 50, 199, 200, 1000]
    found = ["", *["0-1"] * 2, *["1-5"] * 2, *["5-20"] * 2, *["20-100"] * 2]
    assert [share_bucket(n, 1000) for n in shares] == [name and f"{name}_percent" for name in found]


def test_size_alone_by_default_and_no_examples_no_buckets():
    metric = BucketIoU()
    full = torch.ones(40, 40, dtype=torch.bool)
    metric.update(full, full, None, ["medium"])
    metric.update(full, ~full, None, [""])
    got = {name: float(value) for name, value in metric.compute().items()}
    assert got == {"giou_by_size/medium": 1.0, "n_by_size/medium": 1.0}
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert metric.compute() == {}


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ByMaskShare\.limits must rise strictly inside \(0, 1\), got \[0\.5, 0\.1\]"):
        ByMaskShare(limits=(0.5, 0.1))
    with pytest.raises(ValueError, match=r"ByMaskShare\.limits .* got \[5, 20\]"):
        ByMaskShare(limits=(5, 20))
    with pytest.raises(ValueError, match=r"BucketIoU\.by has groupings \['size', 'size'\]: each name can be logged"):
        BucketIoU(by=[ByMaskSize(), ByMaskSize()])
    full = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="BucketIoU has 1 groupings, but update was given 2 buckets"):
        BucketIoU().update(full, full, None, ["a", "b"])
    with pytest.raises(FileNotFoundError, match=r"ByTable\.file .*nowhere\.json is not there.*buckets by 'difficulty'"):
        ByTable(name="difficulty", file=str(tmp_path / "nowhere.json"))
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"ByTable\.file .*list\.json must hold one JSON object"):
        ByTable(name="difficulty", file=str(tmp_path / "list.json"))
