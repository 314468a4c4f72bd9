"""Scores of a split from the records of its examples, with bootstrap intervals.

Every score is a ratio of two sums over examples (gIoU: sum of IoUs over their number; cIoU: sum of intersections over
sum of unions). Values are exactly rounded sums over records sorted by key: they depend on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coprs_lightning.evaluation.examples import ExampleRecord
from coprs_lightning.metrics.iou import DEFAULT_THRESHOLDS

COVERAGE = 0.95
_CHUNK = 4_000_000  # numbers drawn at a time: 32 MB


@dataclass(frozen=True)
class Score:
    """A score and its bootstrap interval; fractions, except for lengths.

    Attributes:
        value: over all examples.
        low: lower end of the 95 % interval; NaN where all examples are of one image.
        high: upper end.
        n: examples that it is about.
    """

    value: float
    low: float
    high: float
    n: int


def ratios(records: Sequence[ExampleRecord]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Numerators and denominators (n,) float64 of every score, by name; in the order of the tables."""
    n = len(records)
    every = np.ones(n)

    def column(name: str) -> np.ndarray:
        return np.array([float(record.scores[name]) for record in records])

    iou = column("iou")
    absent = column("target_pixels") == 0
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "giou": (iou, every),
        "ciou": (column("intersection"), column("union")),
    }
    found |= {f"precision@{t:g}": ((iou >= t).astype(float), every) for t in DEFAULT_THRESHOLDS}
    found |= {
        "heatmap_giou": (column("heatmap_iou"), every),
        "heatmap_ciou": (column("heatmap_intersection"), column("heatmap_union")),
    }
    for name in ("well_formed", "truncated", "present"):
        found[name] = (np.array([float(getattr(record, name)) for record in records]), every)
    found["completion_tokens"] = (np.array([float(record.completion_tokens) for record in records]), every)
    if absent.any():
        empty = np.array([record.scores["predicted_pixels"] == 0 for record in records])
        found["n_acc"] = ((absent & empty).astype(float), absent.astype(float))
        found["t_acc"] = ((~absent & ~empty).astype(float), (~absent).astype(float))
    return found


def summarise(records: Sequence[ExampleRecord], *, seed: int, resamples: int) -> dict[str, Score]:
    """Every score of some examples.

    Args:
        records: sorted by key.
        seed: of the bootstrap.
        resamples: of the bootstrap; whole images are drawn, since questions about one image are not independent.
    """
    if not records:
        return {}
    columns = ratios(records)
    drawn = _resampled(columns, [record.image for record in records], seed, resamples)
    scores = {}
    for name, (numerators, denominators) in columns.items():
        low, high = _interval(drawn[name])
        value = _ratio(math.fsum(numerators), math.fsum(denominators))
        scores[name] = Score(value, low, high, int((denominators > 0).sum()))
    return scores


def buckets(records: Sequence[ExampleRecord], *, seed: int, resamples: int) -> dict[str, dict[str, Any]]:
    """GIoU and cIoU by kind of question; nothing where kinds are unknown.

    Returns:
        ``{"kind": {name: {"n": …, "giou": Score, "ciou": Score}}}``.
    """
    found: dict[str, dict[str, Any]] = {}
    for kind in sorted({record.kind for record in records if record.kind}):
        chosen = [record for record in records if record.kind == kind]
        scores = summarise(chosen, seed=seed, resamples=resamples)
        found.setdefault("kind", {})[kind] = {"n": len(chosen), "giou": scores["giou"], "ciou": scores["ciou"]}
    return found


def _resampled(
    columns: dict[str, tuple[np.ndarray, np.ndarray]], groups: Sequence[str], seed: int, resamples: int
) -> dict[str, np.ndarray]:
    """(resamples,) ratios of every score; none where there is a single group, which tells nothing of the spread."""
    _, numbers = np.unique(np.array(groups), return_inverse=True)
    count = int(numbers.max()) + 1
    if count < 2:
        return dict.fromkeys(columns, np.zeros(0))
    sums = {
        name: tuple(np.bincount(numbers, weights=part, minlength=count) for part in pair)
        for name, pair in columns.items()
    }
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    rows = max(1, _CHUNK // count)
    for start in range(0, resamples, rows):
        chosen = rng.integers(0, count, (min(rows, resamples - start), count))
        for name, (upper, lower) in sums.items():
            with np.errstate(invalid="ignore", divide="ignore"):
                parts[name].append(upper[chosen].sum(1) / lower[chosen].sum(1))
    return {name: np.concatenate(part) for name, part in parts.items()}


def _interval(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.quantile(finite, ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2))
    return float(low), float(high)


def _ratio(upper: float, lower: float) -> float:
    return upper / lower if lower else 1.0
