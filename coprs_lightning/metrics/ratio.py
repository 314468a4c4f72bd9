"""Scores as ratios of two sums over examples, exactly rounded: the same to the last digit in any order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ratio:
    """A score: all numerators over all denominators (gIoU: IoUs over ones; cIoU: intersections over unions).

    Attributes:
        numerators: (n,) float64, one an example.
        denominators: (n,) float64, likewise, none negative.
        empty: the score where the denominators sum to 0.
    """

    numerators: np.ndarray
    denominators: np.ndarray
    empty: float = math.nan

    @classmethod
    def mean(cls, values: Sequence[float] | np.ndarray, among: np.ndarray | None = None) -> Ratio:
        """The mean of (n,) values, or of those that are ``among`` (n,) bool; NaN of none."""
        numbers = np.asarray(values, dtype=np.float64)
        counted = np.ones(len(numbers), dtype=bool) if among is None else among
        return cls(np.where(counted, numbers, 0.0), counted.astype(np.float64))

    @property
    def n(self) -> int:
        """Examples that the score is about: those with a denominator."""
        return int(np.count_nonzero(self.denominators))

    def value(self) -> float:
        """The score."""
        below = math.fsum(self.denominators)
        return math.fsum(self.numerators) / below if below else self.empty
