"""Scores against plain NumPy loops, SciPy and pycocotools."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coprs_lightning.metrics import Bootstrap, Ratio, SegmentationIoU, intersection_and_union
from coprs_lightning.metrics.iou import DEFAULT_THRESHOLDS, ciou, example_iou, giou, precision_at
from tests.metrics.random_examples import KINDS, random_answer, random_example


def fill(metric, seeds):
    for seed in seeds:
        metric.update(*random_example(seed))
    return metric


def oracle(seeds):
    """gIoU, cIoU, precision and gIoU by kind, pixel by pixel."""
    counts, kinds, empty = [], [], []
    for seed in seeds:
        pred, target, ignore, kind = random_example(seed)
        both = either = 0
        for y in range(pred.shape[0]):
            for x in range(pred.shape[1]):
                if ignore is not None and ignore[y, x]:
                    continue
                both += int(pred[y, x]) * int(target[y, x])
                either += int(pred[y, x] or target[y, x])
        counts.append((both, either))
        kinds.append(kind)
        if not (target if ignore is None else target & ~ignore).any():
            empty.append(either == 0)
    ious = np.array([1.0 if either == 0 else both / either for both, either in counts])
    total = np.array(counts).sum(axis=0)
    scores = {"n": len(counts), "giou": ious.mean(), "ciou": total[0] / total[1]}
    scores |= {f"precision@{t:g}": (ious >= t).mean() for t in DEFAULT_THRESHOLDS}
    if empty:
        scores["none_accuracy"] = np.mean(empty)
    return scores | {f"giou/{k}": ious[np.array(kinds) == k].mean() for k in set(kinds) if k}


def test_scores_equal_the_loop_over_pixels(record_property):
    expected = oracle(range(30))
    got = fill(SegmentationIoU(), range(30)).compute()
    assert set(got) == set(expected)
    assert {f"giou/{kind}" for kind in KINDS if kind} <= set(got)
    assert 0 < got["none_accuracy"] < 1
    assert all(value.dtype == torch.float64 for value in got.values())
    differences = [abs(float(got[name]) - value) for name, value in expected.items()]
    record_property("largest_difference", float(max(differences)))
    assert max(differences) < 1e-14


def test_iou_equals_scipys_jaccard_distance():
    distance = pytest.importorskip("scipy.spatial.distance")
    for seed in range(10):
        pred, target, _, _ = random_example(seed)
        intersection, union = intersection_and_union(pred, target)
        expected = 1 - distance.jaccard(pred.flatten().numpy(), target.flatten().numpy()) if union else 1.0
        assert example_iou(int(intersection), int(union)) == pytest.approx(expected, abs=1e-12)


def test_iou_equals_pycocotools(record_property):
    mask = pytest.importorskip("pycocotools.mask")
    differences = []
    for seed in range(40):
        answer = random_answer(seed)
        pred, target = (np.asfortranarray(m.numpy().astype(np.uint8)) for m in (answer.marked, answer.target))
        intersection, union = (int(n) for n in intersection_and_union(answer.marked, answer.target))
        if union:
            theirs = mask.iou([mask.encode(pred)], [mask.encode(target)], [0])[0, 0]
            differences.append(abs(theirs - example_iou(intersection, union)))
    assert len(differences) > 20
    record_property("largest_difference", float(max(differences)))
    assert max(differences) < 1e-15


def test_order_does_not_change_one_digit():
    forward = fill(SegmentationIoU(), range(40)).compute()
    backward = fill(SegmentationIoU(), reversed(range(40))).compute()
    assert {k: float(v) for k, v in forward.items()} == {k: float(v) for k, v in backward.items()}


def test_empty_against_empty_counts_as_right():
    empty, full = torch.zeros(3, 4, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool)
    metric = SegmentationIoU(thresholds=(1.0,))
    metric.update(empty, empty)
    scores = metric.compute()
    assert [float(scores[name]) for name in ("giou", "ciou", "precision@1")] == [1, 1, 1]
    metric.update(full, empty)
    scores = metric.compute()
    assert float(scores["giou"]) == 0.5
    assert float(scores["ciou"]) == 0  # 0 of 12 pixels


def test_ignored_pixels_count_neither_for_nor_against():
    target = torch.tensor([[True, True, False, False]])
    pred = torch.tensor([[True, False, True, False]])
    ignore = torch.tensor([[False, True, True, False]])
    assert [int(n) for n in intersection_and_union(pred, target)] == [1, 3]
    assert [int(n) for n in intersection_and_union(pred, target, ignore)] == [1, 1]
    assert [int(n) for n in intersection_and_union(pred, target, torch.ones_like(pred))] == [0, 0]


def test_a_threshold_is_reached_by_equality():
    assert precision_at([7 / 10, 0.69], 0.7) == 0.5


def test_without_examples_scores_are_nan_and_warn():
    with pytest.warns(UserWarning, match="SegmentationIoU has seen no example: its scores are NaN"):
        scores = SegmentationIoU().compute()
    assert float(scores.pop("n")) == 0
    assert len(scores) == 2 + len(DEFAULT_THRESHOLDS)
    assert all(math.isnan(value) for value in scores.values())
    assert math.isnan(giou([]))
    assert math.isnan(ciou([], []))
    assert math.isnan(precision_at([], 0.5))


def test_reset_forgets_and_copies_are_independent():
    metric = fill(SegmentationIoU(), range(5))
    copy = metric.clone()
    metric.reset()
    fill(metric, range(3))
    assert float(metric.compute()["n"]) == 3
    assert float(copy.compute()["n"]) == 5
    assert float(metric.compute()["giou"]) == pytest.approx(oracle(range(3))["giou"], abs=1e-14)


def test_answers_to_questions_without_a_target():
    """Ignored pixels count neither as target nor as answer."""
    nothing, dot = torch.zeros(3, 3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool)
    dot[1, 1] = True
    metric = SegmentationIoU()
    for pred, target, ignore in ((nothing, nothing, None), (dot, nothing, None), (dot, nothing, dot), (dot, dot, dot)):
        metric.update(pred, target, ignore)
    metric.update(nothing, dot)
    assert float(metric.compute()["none_accuracy"]) == 3 / 4
    metric.reset()
    metric.update(nothing, dot)
    assert "none_accuracy" not in metric.compute()


def test_names_of_kinds_may_be_in_any_script():
    mask = torch.ones(2, 2, dtype=torch.bool)
    metric = SegmentationIoU()
    for kind in ("größe", "位置", "", "größe"):
        metric.update(mask, mask if kind else ~mask, None, kind)
    scores = metric.compute()
    assert {name for name in scores if "/" in name} == {"giou/größe", "giou/位置"}
    assert float(scores["giou"]) == 0.75
    assert not any("/" in name for name in fill(SegmentationIoU(per_kind=False), range(5)).compute())


@pytest.mark.parametrize("threshold", [0, -0.5, 1.5, 50])
def test_thresholds_are_shares(threshold):
    with pytest.raises(ValueError, match=rf"thresholds must lie in \(0, 1\], got {threshold}"):
        SegmentationIoU(thresholds=(0.5, threshold))


def test_masks_of_another_size_or_type_are_refused():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"pred has size \(2, 8\), target has \(4, 4\)"):
        intersection_and_union(mask.reshape(2, 8), mask)
    with pytest.raises(ValueError, match=r"ignore has size \(4,\)"):
        intersection_and_union(mask, mask, mask[0])
    with pytest.raises(ValueError, match=r"pred must be a bool mask, got torch\.float32: threshold logits"):
        intersection_and_union(mask.float(), mask)


def test_an_answer_gives_its_mask_and_kind():
    one, other = SegmentationIoU(), SegmentationIoU()
    for seed in range(12):
        answer = random_answer(seed)
        one.take(answer)
        other.update(answer.mask_logits > 0, answer.target, answer.ignore, answer.kind)
    assert one.compute() == other.compute()


def test_intervals_stand_beside_the_scores():
    bootstrap = Bootstrap(resamples=200, seed=5)
    plain, with_intervals = (fill(SegmentationIoU(bootstrap=b), range(40)).compute() for b in (None, bootstrap))
    assert {name: with_intervals[name] for name in plain} == plain
    assert {f"{name}_{end}" for name in plain if name != "n" for end in ("low", "high")} | set(plain) == set(
        with_intervals
    )
    for name in ("giou", "ciou", "precision@0.7"):
        low, value, high = (float(with_intervals[name + end]) for end in ("_low", "", "_high"))
        assert 0 <= low < value < high <= 1
    rows = [intersection_and_union(*random_example(seed)[:3]) for seed in range(40)]
    ious = [example_iou(int(i), int(u)) for i, u in rows]
    assert (float(with_intervals["giou_low"]), float(with_intervals["giou_high"])) == bootstrap.interval(
        Ratio.mean(ious)
    )
