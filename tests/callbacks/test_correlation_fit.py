"""Line, band and R against SciPy and against the textbook's matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from callbacks.correlation_fit import band, fit_line


def points(count: int, seed: int = 0) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(seed)
    x = rng.random(count)
    return x.tolist(), (0.3 + 0.6 * x + rng.normal(0, 0.15, count)).tolist()


@pytest.mark.parametrize("count", [4, 17, 500])
def test_line_and_r_are_scipys(count: int) -> None:
    x, y = points(count)
    fit, oracle = fit_line(x, y), stats.linregress(x, y)
    assert (fit.slope, fit.intercept, fit.r) == pytest.approx(
        (oracle.slope, oracle.intercept, oracle.rvalue), abs=1e-12
    )
    interval = stats.pearsonr(x, y).confidence_interval(0.95)
    assert (fit.r_low, fit.r_high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    # the standard error of the slope, from our residual
    assert fit.residual / math.sqrt(fit.x_spread) == pytest.approx(oracle.stderr, abs=1e-12)


@pytest.mark.parametrize("count", [3, 12, 300])
def test_the_band_is_the_one_of_the_design_matrix(count: int) -> None:
    """ŷ(x₀) ± t · √(s² · x₀ᵀ (XᵀX)⁻¹ x₀), as statistics packages compute it."""
    x, y = points(count, seed=1)
    design = np.stack([np.ones(count), x], 1)
    coefficients, *_ = np.linalg.lstsq(design, np.array(y), rcond=None)
    variance = ((np.array(y) - design @ coefficients) ** 2).sum() / (count - 2)
    inverse = np.linalg.inv(design.T @ design)
    at = np.linspace(-0.5, 1.5, 9)
    rows = np.stack([np.ones(9), at], 1)
    half = stats.t.ppf(0.975, count - 2) * np.sqrt(variance * np.einsum("ij,jk,ik->i", rows, inverse, rows))
    line, low, high = band(fit_line(x, y), at.tolist())
    np.testing.assert_allclose(line, rows @ coefficients, atol=1e-10)
    np.testing.assert_allclose(line - low, half, rtol=1e-9)
    np.testing.assert_allclose(high - line, half, rtol=1e-9)


def test_the_band_holds_the_true_line_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        x = rng.random(12)
        _, low, high = band(fit_line(x.tolist(), (1 - 2 * x + rng.normal(0, 0.5, 12)).tolist()), [0.8])
        held += bool(low[0] <= 1 - 2 * 0.8 <= high[0])
    assert 0.92 < held / 400 < 0.98


def test_the_order_of_the_points_does_not_matter() -> None:
    x, y = points(200)
    assert fit_line(x, y) == fit_line(x[::-1], y[::-1])


def test_where_there_is_no_line() -> None:
    assert not fit_line([], []).determined
    assert fit_line([], []).n == 0
    assert not fit_line([0.1, 0.2], [0.3, 0.4]).determined
    vertical = fit_line([0.1] * 5, [0.1, 0.2, 0.3, 0.4, 0.5])
    assert not vertical.determined
    assert vertical.label() == "R undefined, n = 5"


def test_a_flat_line_has_no_r_and_a_perfect_one_has_no_doubt() -> None:
    flat = fit_line([0.1, 0.5, 0.9], [0.7, 0.7, 0.7])
    assert flat.determined
    assert math.isnan(flat.r)
    assert flat.slope == pytest.approx(0, abs=1e-12)
    perfect = fit_line([0.0, 0.25, 0.5, 1.0], [1.0, 0.75, 0.5, 0.0])
    assert (perfect.r, perfect.r_low, perfect.r_high) == (-1.0, -1.0, -1.0)
    assert perfect.label() == "R = -1.00 [-1.00, -1.00], n = 4"
    assert perfect.plain()["slope"] == pytest.approx(-1)


def test_unequal_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="pairs of numbers, got 2 of x and 1 of y"):
        fit_line([1.0, 2.0], [1.0])
