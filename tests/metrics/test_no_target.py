"""Questions without a target, against a loop that follows gRefCOCO's rules example by example."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coprs_lightning.metrics import NoTargetScores, SegmentationIoU
from tests.metrics.random_examples import random_answer


def oracle(seeds, min_pixels):
    """A confusion matrix of "nothing fits" and sums, one example after the other."""
    true_yes = true_no = false_yes = false_no = 0
    ious, shared, either_way, targeted = [], 0, 0, []
    for seed in seeds:
        answer = random_answer(seed)
        counted = np.ones(answer.target.shape, bool) if answer.ignore is None else ~answer.ignore.numpy()
        pred, target = answer.marked.numpy() & counted, answer.target.numpy() & counted
        if np.count_nonzero(pred) < min_pixels:
            pred = np.zeros_like(pred)
        both, either = np.logical_and(pred, target).sum(), np.logical_or(pred, target).sum()
        says_nothing = not pred.any()
        if not target.any():
            true_yes += says_nothing
            false_no += not says_nothing
            ious.append(1.0 if says_nothing else 0.0)
        else:
            false_yes += says_nothing
            true_no += not says_nothing
            ious.append(both / either)
            targeted.append((both / either, both, either))
        shared, either_way = shared + both, either_way + either
    found = {"n_acc": true_yes / (true_yes + false_no), "t_acc": true_no / (true_no + false_yes)}
    found |= {"gres_giou": np.mean(ious), "gres_ciou": shared / either_way}
    of_targets = np.array(targeted)
    found |= {f"gres_precision@{t}": np.mean(of_targets[:, 0] >= t) for t in (0.7, 0.8, 0.9)}
    return found | {
        "target_giou": of_targets[:, 0].mean(),
        "target_ciou": of_targets[:, 1].sum() / of_targets[:, 2].sum(),
    }


def fill(metric, seeds):
    for seed in seeds:
        metric.take(random_answer(seed))
    return metric


@pytest.mark.parametrize("min_pixels", [1, 50])
def test_scores_equal_the_loop(min_pixels, record_property):
    expected = oracle(range(60), min_pixels)
    got = fill(NoTargetScores(min_pixels=min_pixels), range(60)).compute()
    assert set(got) == set(expected)
    differences = [abs(float(got[name]) - value) for name, value in expected.items()]
    record_property("largest_difference", float(max(differences)))
    assert max(differences) < 1e-14
    assert all(0 < value < 1 for value in expected.values())


def test_specks_count_as_nothing_where_asked_for():
    strict, lenient = (fill(NoTargetScores(min_pixels=n), range(60)).compute() for n in (1, 50))
    assert float(lenient["n_acc"]) > float(strict["n_acc"])
    assert float(lenient["t_acc"]) < float(strict["t_acc"])
    assert float(lenient["gres_giou"]) != float(strict["gres_giou"])


def test_masks_as_they_are_score_as_lisa_counts_them():
    plain = fill(SegmentationIoU(), range(60)).compute()
    found = fill(NoTargetScores(), range(60)).compute()
    for mine, theirs in {"gres_giou": "giou", "gres_ciou": "ciou", "n_acc": "none_accuracy"}.items():
        assert float(found[mine]) == float(plain[theirs])
    assert float(found["target_giou"]) != float(plain["giou"])


def test_by_hand():
    nothing, dot, full = (torch.zeros(2, 2, dtype=torch.bool) for _ in range(3))
    dot[0, 0] = True
    full[:] = True
    metric = NoTargetScores(thresholds=(0.25,))
    for pred, target in ((nothing, nothing), (full, nothing), (dot, full), (nothing, dot)):
        metric.update(pred, target)
    got = {name: float(value) for name, value in metric.compute().items()}
    assert got == {
        "n_acc": 1 / 2,
        "t_acc": 1 / 2,
        "gres_giou": (1 + 0 + 1 / 4 + 0) / 4,
        "gres_ciou": 1 / (0 + 4 + 4 + 1),  # right silence adds nothing, a wrong answer its pixels
        "gres_precision@0.25": 1 / 2,
        "target_giou": (1 / 4 + 0) / 2,
        "target_ciou": 1 / 5,
    }


def test_there_is_nothing_to_tell_where_every_question_has_a_target():
    metric = NoTargetScores()
    full = torch.ones(2, 2, dtype=torch.bool)
    metric.update(full, full)
    assert metric.compute() == {}
    metric.update(full, full, ignore=full)  # nothing of the target counts
    assert float(metric.compute()["n_acc"]) == 1
    alone = NoTargetScores()
    alone.update(~full, ~full)
    assert {name: float(value) for name, value in alone.compute().items()} == {
        "n_acc": 1,
        "gres_giou": 1,
        "gres_ciou": 1,
    }


def test_options_that_make_no_sense():
    with pytest.raises(ValueError, match=r"NoTargetScores\.min_pixels must be ≥ 1, got 0: with 0 no answer"):
        NoTargetScores(min_pixels=0)
    with pytest.raises(ValueError, match=r"NoTargetScores\.thresholds must lie in \(0, 1\], got 70: an IoU is a share"):
        NoTargetScores(thresholds=(70,))
