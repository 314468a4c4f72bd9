"""Bootstrap intervals against a plain loop, SciPy and what they promise."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from coprs_lightning.metrics import Bootstrap, Ratio
from coprs_lightning.metrics.iou import ciou_ratio


def example_ratios(n=60, seed=0):
    rng = np.random.default_rng(seed)
    unions = rng.integers(1, 5000, n)
    intersections = (unions * rng.beta(4, 2, n)).astype(np.int64)
    ious = intersections / unions
    return {
        "giou": Ratio.mean(ious),
        "ciou": ciou_ratio(intersections, unions),
        "precision@0.7": Ratio.mean(ious >= 0.7),
        "some": Ratio.mean(ious, among=rng.random(n) > 0.5),
    }


@pytest.mark.parametrize("name", example_ratios())
def test_ends_equal_a_loop_over_resamples(name, record_property):
    ratio = example_ratios()[name]
    bootstrap = Bootstrap(resamples=300, seed=11)
    # the documented order: by denominator, then by numerator
    pairs = sorted(zip(ratio.denominators.tolist(), ratio.numerators.tolist(), strict=True))
    drawn = np.random.default_rng(11).integers(0, len(pairs), (300, len(pairs)))
    found = []
    for row in drawn.tolist():
        below = math.fsum(pairs[index][0] for index in row)
        found.append(math.fsum(pairs[index][1] for index in row) / below)
    expected = np.percentile(found, [2.5, 97.5])
    got = bootstrap.interval(ratio)
    record_property("largest_difference", float(np.abs(np.array(got) - expected).max()))
    assert np.abs(np.array(got) - expected).max() < 1e-14
    assert got[0] < ratio.value() < got[1]


@pytest.mark.parametrize("name", ["giou", "ciou", "precision@0.7"])
def test_ends_are_those_of_scipys_bootstrap(name):
    """Other random numbers, so only as close as 5 000 resamples are: well within a tenth of the interval."""
    stats = pytest.importorskip("scipy.stats")
    ratio = example_ratios()[name]
    got = Bootstrap(resamples=5000, seed=2).interval(ratio)
    theirs = stats.bootstrap(
        (ratio.numerators, ratio.denominators),
        lambda above, below, axis: above.sum(axis=axis) / below.sum(axis=axis),
        paired=True,
        n_resamples=5000,
        method="percentile",
        rng=np.random.default_rng(9),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(got[0] - theirs.low) < 0.1 * width
    assert abs(got[1] - theirs.high) < 0.1 * width


def test_intervals_hold_the_truth_as_often_as_they_say():
    """IoUs from a known distribution: of 300 experiments, about 285 intervals hold its mean."""
    bootstrap, held = Bootstrap(resamples=400, seed=1), 0
    for experiment in range(300):
        ious = np.random.default_rng(experiment).beta(2, 1, 80)
        low, high = bootstrap.interval(Ratio.mean(ious))
        held += low <= 2 / 3 <= high
    assert 0.91 <= held / 300 <= 0.98


def test_the_order_of_examples_and_the_size_of_blocks_change_no_digit():
    for ratio in example_ratios().values():
        order = np.random.default_rng(4).permutation(len(ratio.numerators))
        mixed = Ratio(ratio.numerators[order], ratio.denominators[order])
        expected = Bootstrap(resamples=97).interval(ratio)
        assert Bootstrap(resamples=97).interval(mixed) == expected
        for budget in (1, 61, 1000, 10**6):
            assert Bootstrap(resamples=97, budget=budget).interval(mixed) == expected
        assert Bootstrap(resamples=97, seed=1).interval(ratio) != expected


def test_examples_of_one_image_are_drawn_together():
    """Ten equal questions about each of 20 images tell no more than 20 do."""
    values = np.random.default_rng(0).random(20)
    ratio = Ratio.mean(np.repeat(values, 10))
    images = [f"image {i // 10}" for i in range(200)]
    bootstrap = Bootstrap(resamples=500, seed=7)
    together, apart = bootstrap.interval(ratio, images), bootstrap.interval(ratio)
    once = bootstrap.interval(Ratio.mean(values))
    assert together == pytest.approx(once, abs=1e-14)
    assert together[1] - together[0] > 2.5 * (apart[1] - apart[0])
    order = np.random.default_rng(1).permutation(200)
    mixed = Ratio(ratio.numerators[order], ratio.denominators[order])
    assert bootstrap.interval(mixed, [images[i] for i in order]) == together


def test_more_coverage_is_wider():
    ratio = example_ratios()["giou"]
    widths = [high - low for low, high in (Bootstrap(coverage=c).interval(ratio) for c in (0.5, 0.8, 0.95, 0.99))]
    assert widths == sorted(widths)
    assert len(set(widths)) == 4


def test_too_little_to_tell():
    for ratio in (Ratio.mean([]), Ratio.mean([0.5])):
        assert all(math.isnan(end) for end in Bootstrap().interval(ratio))
    assert all(math.isnan(end) for end in Bootstrap().interval(Ratio.mean([0.1, 0.9]), ["one", "one"]))
    assert all(math.isnan(end) for end in Bootstrap().interval(Ratio.mean([0.1, 0.9], among=np.zeros(2, bool))))
    assert Bootstrap().interval(ciou_ratio([0, 0], [0, 0])) == (1, 1)  # nothing wanted, nothing marked


def test_memory_is_bounded():
    """10 000 examples, 1 000 resamples: drawn at once they would take 240 MB."""
    ratio = Ratio.mean(np.random.default_rng(0).random(10_000))
    Bootstrap(resamples=2).interval(ratio)
    peaks = []
    for budget in (500_000, 10_000_000):
        tracemalloc.start()  # NumPy's arrays are seen
        Bootstrap(resamples=400, budget=budget).interval(ratio)
        peaks.append(tracemalloc.get_traced_memory()[1] / 1e6)
        tracemalloc.stop()
    assert peaks[0] < 20
    assert peaks[1] > 60


def test_options_that_make_no_sense():
    with pytest.raises(ValueError, match=r"Bootstrap\.resamples and Bootstrap\.budget must be ≥ 1, got 0 and 500000"):
        Bootstrap(resamples=0)
    with pytest.raises(ValueError, match=r"Bootstrap\.coverage must lie in \(0, 1\), got 95: 0\.95 means 95 %"):
        Bootstrap(coverage=95)
