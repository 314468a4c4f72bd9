"""Means, deviations and intervals, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from coprs_lightning.ablation.statistics import Difference, Summary, paired_difference, summary


@pytest.mark.parametrize("seeds", [2, 3, 5, 30])
def test_the_interval_is_that_of_the_paired_t_test(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    base, variant = generator.normal(0.6, 0.02, seeds), generator.normal(0.62, 0.03, seeds)
    expected = stats.ttest_rel(variant, base).confidence_interval(0.95)
    found = paired_difference(dict(enumerate(variant)), dict(enumerate(base)))
    assert found.n == seeds
    assert found.mean == pytest.approx((variant - base).mean(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_the_deviation_is_that_of_a_sample() -> None:
    values = [0.5, 0.55, 0.7]
    found = summary(values)
    assert (found.n, found.mean, found.sd) == (3, pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))


def test_seeds_are_paired_and_those_of_one_side_are_left_out() -> None:
    found = paired_difference({1: 0.5, 2: 0.9, 3: 0.7}, {3: 0.6, 1: 0.3, 9: 0.0})
    assert (found.n, found.mean) == (2, pytest.approx(0.15))


def test_one_seed_has_neither_deviation_nor_interval() -> None:
    assert summary([0.5]) == Summary(1, 0.5, None)
    assert paired_difference({1: 0.5}, {1: 0.25}) == Difference(1, 0.25, None, None)


def test_no_seed_has_no_numbers() -> None:
    assert summary([]) == Summary(0, None, None)
    assert paired_difference({1: 0.5}, {2: 0.5}) == Difference(0, None, None, None)


def test_equal_differences_have_an_interval_without_width() -> None:
    found = paired_difference({1: 0.5, 2: 0.75}, {1: 0.25, 2: 0.5})
    assert found == Difference(2, 0.25, 0.25, 0.25)
