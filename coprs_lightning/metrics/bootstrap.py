"""How far a score could have come out otherwise: percentile bootstrap intervals (Efron and Tibshirani 1993, ch. 13)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coprs_lightning.metrics.ratio import Ratio


@dataclass(frozen=True)
class Bootstrap:
    """Percentile intervals of any :class:`Ratio` (a mean, gIoU, cIoU, a precision) from resampled examples.

    Examples are put in an order of their own before they are drawn, so that an interval depends on the seed and the
    scores alone. A fixed seed gives all scores of a table the same draws.

    Attributes:
        resamples: how many tables of n examples are drawn, with replacement.
        seed: of the draws.
        coverage: share of the resampled scores inside the interval.
        budget: indices drawn at a time, 24 bytes each; more only where a single resample has more.

    Raises:
        ValueError: for fewer than one resample, a budget below 1 or a coverage outside (0, 1).
    """

    resamples: int = 1000
    seed: int = 0
    coverage: float = 0.95
    budget: int = 500_000

    def __post_init__(self) -> None:
        if self.resamples < 1 or self.budget < 1:
            raise ValueError(
                f"Bootstrap.resamples and Bootstrap.budget must be ≥ 1, got {self.resamples} and {self.budget}: "
                "without draws there is no interval. Leave the bootstrap out to do without."
            )
        if not 0 < self.coverage < 1:
            raise ValueError(f"Bootstrap.coverage must lie in (0, 1), got {self.coverage}: 0.95 means 95 %.")

    def interval(self, ratio: Ratio, groups: Sequence[str] | None = None) -> tuple[float, float]:
        """The lower and the upper end.

        Args:
            ratio: the score.
            groups: n names; examples of one name (questions about one image, say) are drawn together, as they are not
                independent. ``None`` draws single examples.

        Returns:
            NaN twice for fewer than two examples (or groups), which tell nothing of the spread.
        """
        above, below = _units(ratio, groups)
        if len(above) < 2:
            return math.nan, math.nan
        found = self._resampled(above, below, ratio.empty)
        found = found[np.isfinite(found)]
        if not len(found):
            return math.nan, math.nan
        low, high = np.quantile(found, ((1 - self.coverage) / 2, (1 + self.coverage) / 2))
        return float(low), float(high)

    def _resampled(self, above: np.ndarray, below: np.ndarray, empty: float) -> np.ndarray:
        """(resamples,) scores."""
        rng, count = np.random.default_rng(self.seed), len(above)
        rows = max(1, self.budget // count)
        found = np.full(self.resamples, empty)
        for start in range(0, self.resamples, rows):
            drawn = rng.integers(0, count, (min(rows, self.resamples - start), count))
            upper, lower = above[drawn].sum(1), below[drawn].sum(1)
            np.divide(upper, lower, out=found[start : start + len(drawn)], where=lower > 0)
        return found


def _units(ratio: Ratio, groups: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators of what is drawn, in an order that does not depend on the order of the examples."""
    above, below = ratio.numerators.astype(np.float64), ratio.denominators.astype(np.float64)
    if groups is not None and len(above):
        _, numbers = np.unique(np.asarray(groups), return_inverse=True)
        order = np.lexsort((above, below, numbers))
        starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
        above, below = (np.add.reduceat(part[order], starts) for part in (above, below))
    order = np.lexsort((above, below))
    return above[order], below[order]
