"""How two scores hang together: the least-squares line with its confidence band, and Pearson's R (paper Figure 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class LineFit:
    """Ordinary least squares of y on x. Everything but ``n`` and the means is NaN where no line is determined.

    Attributes:
        n: number of points.
        r: Pearson's correlation.
        r_low: lower end of the 95 % interval of R, by Fisher's transformation.
        r_high: upper end.
        slope: of the line.
        intercept: of the line.
        residual: standard deviation of the points about the line, n − 2 degrees of freedom.
        x_mean: mean of x.
        y_mean: mean of y.
        x_spread: sum of the squared deviations of x from its mean.
    """

    n: int
    r: float
    r_low: float
    r_high: float
    slope: float
    intercept: float
    residual: float
    x_mean: float
    y_mean: float
    x_spread: float

    @property
    def determined(self) -> bool:
        """Whether there is a line."""
        return math.isfinite(self.slope)

    def plain(self) -> dict[str, Any]:
        """The numbers by name."""
        return asdict(self)

    def label(self) -> str:
        """R with its interval, and n, for a plot."""
        if not math.isfinite(self.r):
            return f"R undefined, n = {self.n}"
        return f"R = {self.r:.2f} [{self.r_low:.2f}, {self.r_high:.2f}], n = {self.n}"


def fit_line(x: Sequence[float], y: Sequence[float]) -> LineFit:
    """Fit a line through points.

    Args:
        x: n finite values.
        y: likewise.

    Returns:
        the fit; undetermined for fewer than three points or points with equal x. Sums are exactly rounded, so that the
        order of the points does not matter.

    Raises:
        ValueError: for lists of different lengths.
    """
    if len(x) != len(y):
        raise ValueError(f"a line needs pairs of numbers, got {len(x)} of x and {len(y)} of y.")
    n, nothing = len(x), math.nan
    if not n:
        return LineFit(0, nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing)
    x_mean, y_mean = math.fsum(x) / n, math.fsum(y) / n
    x_spread = math.fsum((a - x_mean) ** 2 for a in x)
    y_spread = math.fsum((b - y_mean) ** 2 for b in y)
    if n < 3 or x_spread <= 1e-18 * max(1.0, x_mean**2) * n:
        return LineFit(n, nothing, nothing, nothing, nothing, nothing, nothing, x_mean, y_mean, x_spread)
    shared = math.fsum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    slope = shared / x_spread
    intercept = y_mean - slope * x_mean
    left = math.fsum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    flat = y_spread <= 1e-18 * max(1.0, y_mean**2) * n
    r = nothing if flat else max(-1.0, min(1.0, shared / math.sqrt(x_spread * y_spread)))
    low, high = _r_interval(r, n)
    return LineFit(n, r, low, high, slope, intercept, math.sqrt(left / (n - 2)), x_mean, y_mean, x_spread)


def band(fit: LineFit, at: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The line, and the 95 % confidence band of the mean about it.

    Args:
        fit: a determined fit.
        at: values of x.

    Returns:
        line, lower and upper end at ``at``: ``ŷ ± t · s · √(1/n + (x − x̄)² / Sxx)``, t with n − 2 degrees of freedom.
    """
    from scipy.stats import t

    where = np.asarray(at, dtype=np.float64)
    line = fit.intercept + fit.slope * where
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, fit.n - 2))
    half = quantile * fit.residual * np.sqrt(1 / fit.n + (where - fit.x_mean) ** 2 / fit.x_spread)
    return line, line - half, line + half


def _r_interval(r: float, n: int) -> tuple[float, float]:
    if not math.isfinite(r) or n < 4:
        return math.nan, math.nan
    if abs(r) == 1:
        return r, r
    half = 1.959963984540054 / math.sqrt(n - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
