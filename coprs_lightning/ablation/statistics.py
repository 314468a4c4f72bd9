"""Means, deviations and paired differences over few seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Several numbers in short.

    Attributes:
        n: how many.
        mean: of them; ``None`` without any.
        sd: sample standard deviation (n − 1); ``None`` below two.
    """

    n: int
    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Difference:
    """A variant less the base, seed by seed.

    Attributes:
        n: seeds that both have.
        mean: of the differences; ``None`` without any.
        low: lower end of the interval that holds the true difference with :data:`CONFIDENCE`; ``None`` below two seeds.
        high: its upper end.
    """

    n: int
    mean: float | None
    low: float | None
    high: float | None


def summary(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation."""
    if not values:
        return Summary(0, None, None)
    return Summary(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def paired_difference(variant: Mapping[int, float], base: Mapping[int, float]) -> Difference:
    """Mean difference over the seeds that both have, with Student's interval.

    Args:
        variant: values by seed.
        base: likewise.
    """
    found = [variant[seed] - base[seed] for seed in sorted(variant.keys() & base.keys())]
    told = summary(found)
    if told.mean is None or told.sd is None:
        return Difference(told.n, told.mean, None, None)
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, told.n - 1)) * told.sd / math.sqrt(told.n)
    return Difference(told.n, told.mean, told.mean - half, told.mean + half)
