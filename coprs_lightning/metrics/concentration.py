"""How much of the heatmap lies on the target, and how tightly: is the positional prior a prior? (paper section 3)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from coprs_lightning.metrics.answers import Answer
from coprs_lightning.metrics.bootstrap import Bootstrap
from coprs_lightning.metrics.pixels import check_logits, log_sigmoid, pixel_blocks
from coprs_lightning.metrics.ratio import Ratio
from coprs_lightning.metrics.table import ExampleMetric, from_bits, to_bits
from coprs_lightning.structures import NO_PRIOR_LOGIT

PUBLISHED_TOLERANCE = 15
"""Pixels by which the pointing game lets the peak miss (Zhang et al. 2018, "Top-down Neural Attention by Excitation
Backprop")."""

NOWHERE = NO_PRIOR_LOGIT / 2
"""A heatmap whose greatest logit is below (probability 1e-11) marks nothing, as one without a concentration token."""


class Concentration(NamedTuple):
    """Where the probability of one heatmap lies; NaN where a number has no meaning.

    Attributes:
        inside: share of the probability that lies on the target, in [0, 1]; 0 for a heatmap that marks nothing, NaN
            without a target.
        entropy: of the probability as a distribution over pixels, divided by that of an even one: 0 where all lies on
            one pixel, 1 where it is even; NaN for a heatmap that marks nothing.
        pointing: 1 where the peak hits the target, 0 otherwise and for a heatmap that marks nothing; NaN without a
            target.
    """

    inside: float
    entropy: float
    pointing: float


def concentration(
    logits: Tensor, target: Tensor, ignore: Tensor | None = None, *, tolerance: float = PUBLISHED_TOLERANCE
) -> Concentration:
    """Measure one heatmap.

    Args:
        logits: (H, W) float, the heatmap at the image's own size.
        target: (H, W) bool, ground truth.
        ignore: (H, W) bool, pixels that are left out.
        tolerance: distance in pixels by which the peak may miss the target.

    Raises:
        ValueError: for logits or masks of another dtype, or of different sizes.
    """
    check_logits(logits, target, ignore)
    wanted = bool((target if ignore is None else target & ~ignore).any())
    peak = max((float(x.max()) for x, _ in pixel_blocks(logits, target, ignore) if len(x)), default=-math.inf)
    if peak < NOWHERE:
        return Concentration(0.0 if wanted else math.nan, math.nan, 0.0 if wanted else math.nan)
    inside, entropy = _spread(logits, target, ignore, peak)
    hit = float(peak_hits(logits, target, ignore, tolerance=tolerance)) if wanted else math.nan
    return Concentration(inside if wanted else math.nan, entropy, hit)


def _spread(logits: Tensor, target: Tensor, ignore: Tensor | None, peak: float) -> tuple[float, float]:
    """Share inside and normalised entropy, from probabilities relative to the peak's: no underflow, no 0 · ln 0."""
    top = float(log_sigmoid(np.array([peak]))[0])
    totals, inner, weighted, count = [], [], [], 0
    for x, wanted in pixel_blocks(logits, target, ignore):
        logs = log_sigmoid(x) - top
        parts = np.exp(logs)
        totals.append(float(parts.sum()))
        inner.append(float(parts[wanted].sum()))
        weighted.append(float((parts * logs).sum()))
        count += len(x)
    total = math.fsum(totals)
    nats = math.log(total) - math.fsum(weighted) / total
    # rounding may leave a distribution a digit above even, or a single point a digit below 0
    entropy = min(1.0, max(0.0, nats / math.log(count))) if count > 1 else 0.0
    return math.fsum(inner) / total, entropy


def peak_hits(
    logits: Tensor, target: Tensor, ignore: Tensor | None = None, *, tolerance: float = PUBLISHED_TOLERANCE
) -> bool:
    """The pointing game: whether the target has a pixel within ``tolerance`` of the greatest logit.

    Args:
        logits: (H, W) float.
        target: (H, W) bool, ground truth.
        ignore: (H, W) bool, pixels that are neither peak nor target.
        tolerance: Euclidean distance in pixels. Of several greatest logits the first counts, row by row.

    Raises:
        ValueError: for logits or masks of another dtype, or of different sizes.
    """
    check_logits(logits, target, ignore)
    values, wanted = logits.detach().float().cpu().numpy(), target.cpu().numpy()
    if ignore is not None:
        left_out = ignore.cpu().numpy()
        values, wanted = np.where(left_out, -np.inf, values), wanted & ~left_out
    row, column = (int(place) for place in np.unravel_index(values.argmax(), values.shape))
    reach = int(tolerance)
    top, left = max(0, row - reach), max(0, column - reach)
    rows, columns = np.nonzero(wanted[top : row + reach + 1, left : column + reach + 1])
    return bool(((rows + top - row) ** 2 + (columns + left - column) ** 2 <= tolerance**2).any())


class HeatmapConcentration(ExampleMetric):
    """Means over examples of how heatmaps are concentrated, see :class:`Concentration`.

    ``heatmap_inside`` and ``heatmap_pointing`` are over questions with a target, a missing heatmap counting 0;
    ``heatmap_entropy`` is over heatmaps that mark something.

    Args:
        tolerance: distance in pixels of the image by which the peak may miss the target. The published pointing game
            takes 15, on photos of about 500 pixels; smaller images want less.
        bootstrap: how to find intervals; ``None`` for none.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: for a negative tolerance.
    """

    def __init__(
        self, *, tolerance: float = PUBLISHED_TOLERANCE, bootstrap: Bootstrap | None = None, **kwargs: Any
    ) -> None:
        super().__init__(width=3, bootstrap=bootstrap, **kwargs)
        if not tolerance >= 0:
            raise ValueError(
                f"HeatmapConcentration.tolerance must be ≥ 0 pixels, got {tolerance}: 0 wants the peak on the target."
            )
        self.tolerance = tolerance

    def update(self, logits: Tensor, target: Tensor, ignore: Tensor | None = None) -> None:
        """Add one example.

        Args:
            logits: (H, W) float, the heatmap at the image's own size.
            target: (H, W) bool, ground truth.
            ignore: (H, W) bool, pixels that are left out.
        """
        self.keep(to_bits(concentration(logits, target, ignore, tolerance=self.tolerance)))

    def take(self, answer: Answer) -> None:
        """See :meth:`ExampleMetric.take`: the heatmap."""
        self.update(answer.heatmap_logits, answer.target, answer.ignore)

    def ratios(self) -> dict[str, Ratio]:
        """``heatmap_inside``, ``heatmap_entropy`` and ``heatmap_pointing``; absent where no example has one."""
        columns = dict(zip(Concentration._fields, from_bits(self.table()).T, strict=True))
        known = {name: ~np.isnan(values) for name, values in columns.items()}
        return {
            f"heatmap_{name}": Ratio.mean(values, among=known[name])
            for name, values in columns.items()
            if known[name].any()
        }
