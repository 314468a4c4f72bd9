"""Concentration of heatmaps against loops over pixels and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coprs_lightning.metrics import HeatmapConcentration, concentration
from coprs_lightning.metrics.concentration import peak_hits
from coprs_lightning.metrics.pixels import log_sigmoid, pixel_blocks
from coprs_lightning.structures import NO_PRIOR_LOGIT
from tests.metrics.random_examples import random_answer


def oracle(answer, tolerance):
    """Pixel after pixel, with Python's numbers."""
    total, inside, points, peak, place = [], [], [], -math.inf, None
    height, width = answer.target.shape
    for y in range(height):
        for x in range(width):
            if answer.ignore is not None and answer.ignore[y, x]:
                continue
            logit = float(answer.heatmap_logits[y, x])
            probability = 1 / (1 + math.exp(-logit))
            total.append(probability)
            if answer.target[y, x]:
                inside.append(probability)
                points.append((y, x))
            if logit > peak:
                peak, place = logit, (y, x)
    if peak < -25:
        return (0.0, math.nan, 0.0) if points else (math.nan,) * 3
    whole = math.fsum(total)
    entropy = -math.fsum(p / whole * math.log(p / whole) for p in total) / math.log(len(total))
    if not points:
        return math.nan, entropy, math.nan
    hit = any(math.dist(place, point) <= tolerance for point in points)
    return math.fsum(inside) / whole, entropy, float(hit)


def test_numbers_equal_the_loop(record_property):
    differences, seen, hits = [], [], []
    for seed in range(42):
        answer = random_answer(seed)
        expected = oracle(answer, 3)
        got = concentration(answer.heatmap_logits, answer.target, answer.ignore, tolerance=3)
        for mine, theirs in zip(got, expected, strict=True):
            assert math.isnan(mine) == math.isnan(theirs)
            if not math.isnan(theirs):
                differences.append(abs(mine - theirs))
        seen.append([math.isnan(value) for value in expected])
        hits.append(expected[2])
    record_property("largest_difference", float(max(differences)))
    assert max(differences) < 1e-13
    assert {1.0, 0.0} <= set(hits)
    assert [True, True, True] in seen  # neither heatmap nor target
    assert [False, True, False] in seen  # no heatmap
    assert [True, False, True] in seen  # no target


def test_means_equal_the_loop(record_property):
    metric = HeatmapConcentration(tolerance=3)
    rows = []
    for seed in range(42):
        metric.take(random_answer(seed))
        rows.append(oracle(random_answer(seed), 3))
    expected = np.nanmean(np.array(rows), axis=0)
    got = metric.compute()
    assert list(got) == ["heatmap_inside", "heatmap_entropy", "heatmap_pointing"]
    differences = [abs(float(value) - theirs) for value, theirs in zip(got.values(), expected, strict=True)]
    record_property("largest_difference", float(max(differences)))
    assert max(differences) < 1e-13


def test_entropy_equals_scipys(record_property):
    stats, special = pytest.importorskip("scipy.stats"), pytest.importorskip("scipy.special")
    differences = []
    for seed in (1, 2, 4, 6, 8):
        answer = random_answer(seed)
        p = special.expit(answer.heatmap_logits.double().numpy())
        p = p.ravel() if answer.ignore is None else p[~answer.ignore.numpy()]
        expected = stats.entropy(p) / math.log(len(p))
        differences.append(abs(concentration(answer.heatmap_logits, answer.target, answer.ignore).entropy - expected))
    record_property("largest_difference", float(max(differences)))
    assert max(differences) < 1e-13


def test_pointing_equals_scipys_distances():
    ndimage = pytest.importorskip("scipy.ndimage")
    seen = set()
    for seed in range(60):
        answer = random_answer(seed)
        if not answer.target.any() or answer.ignore is not None:
            continue
        far = ndimage.distance_transform_edt(~answer.target.numpy())
        place = np.unravel_index(answer.heatmap_logits.numpy().argmax(), far.shape)
        for tolerance in (0, 1, 2.5, 5, 20):
            expected = far[place] <= tolerance
            assert peak_hits(answer.heatmap_logits, answer.target, tolerance=tolerance) == expected
            seen.add((tolerance, bool(expected)))
    assert {(0, True), (0, False), (2.5, True), (2.5, False), (20, True)} <= seen


def test_even_and_pointed_heatmaps():
    target = torch.zeros(10, 10, dtype=torch.bool)
    target[:2] = True
    even = concentration(torch.full((10, 10), 1.5), target)
    assert even.inside == pytest.approx(0.2, abs=1e-15)
    assert even.entropy == pytest.approx(1, abs=1e-15)
    assert even.entropy <= 1
    point = torch.full((10, 10), -1000.0)
    point[1, 1] = 3
    assert concentration(point, target, tolerance=0) == (1, 0, 1)
    point[9, 9] = 4
    assert concentration(point, target, tolerance=0).pointing == 0
    assert concentration(point, target, tolerance=8).pointing == 1
    assert concentration(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool)) == (1, 0, 1)


def test_faint_heatmaps_keep_their_shape():
    """Only relative probabilities matter, down to where a heatmap marks nothing."""
    target = torch.zeros(1, 2, dtype=torch.bool)
    target[0, 0] = True
    faint = concentration(torch.tensor([[-20.0, -20.0 - math.log(3)]]), target)
    assert faint.inside == pytest.approx(0.75, abs=1e-6)
    nothing = concentration(torch.full((4, 4), NO_PRIOR_LOGIT), torch.ones(4, 4, dtype=torch.bool))
    assert (nothing.inside, nothing.pointing) == (0, 0)
    assert math.isnan(nothing.entropy)


def test_everything_ignored():
    full = torch.ones(3, 3, dtype=torch.bool)
    assert all(math.isnan(value) for value in concentration(torch.ones(3, 3), full, full))
    metric = HeatmapConcentration()
    metric.update(torch.ones(3, 3), full, full)
    assert metric.compute() == {}


def test_blocks_of_any_size_hold_the_same_pixels():
    answer = random_answer(3)
    assert answer.ignore is not None
    whole = list(pixel_blocks(answer.heatmap_logits, answer.target, answer.ignore))
    assert len(whole) == 1
    parts = list(pixel_blocks(answer.heatmap_logits, answer.target, answer.ignore, block=7))
    assert len(parts) > 10
    assert max(len(x) for x, _ in parts) <= 7
    for place in range(2):
        assert np.array_equal(np.concatenate([part[place] for part in parts]), whole[0][place])
    assert len(whole[0][0]) == int((~answer.ignore).sum())


def test_large_images_go_through_in_blocks():
    torch.manual_seed(0)
    logits, target = torch.randn(700, 900), torch.rand(700, 900) > 0.7
    p = torch.sigmoid(logits.double())
    got = concentration(logits, target)
    assert got.inside == pytest.approx(float(p[target].sum() / p.sum()), abs=1e-13)


def test_log_sigmoid_is_finite_and_right():
    x = np.array([-1e4, -800.0, -3.0, 0.0, 3.0, 40.0, 800.0])
    expected = torch.nn.functional.logsigmoid(torch.from_numpy(x)).numpy()
    assert np.isfinite(log_sigmoid(x)).all()
    assert np.abs(log_sigmoid(x) - expected).max() < 1e-12


def test_half_precision_counts_as_it_is():
    answer = random_answer(1)
    half = answer.heatmap_logits.bfloat16()
    assert concentration(half, answer.target) == concentration(half.double(), answer.target)


def test_what_cannot_be_compared_is_refused():
    logits, mask = torch.zeros(4, 4), torch.zeros(4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"logits must be floating point, got torch\.bool: this score looks at"):
        concentration(mask, mask)
    with pytest.raises(ValueError, match=r"target must be a bool mask, got torch\.float32"):
        concentration(logits, logits)
    with pytest.raises(ValueError, match=r"ignore has size \(2, 8\), the logits have \(4, 4\): scores are taken"):
        peak_hits(logits, mask, mask.reshape(2, 8))
    with pytest.raises(ValueError, match=r"HeatmapConcentration\.tolerance must be ≥ 0 pixels, got -1"):
        HeatmapConcentration(tolerance=-1)
