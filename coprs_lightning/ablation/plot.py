"""A picture of the results: every seed, the means, and the differences to the base with their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coprs_lightning.ablation.axes import BASE
from coprs_lightning.ablation.results import Results


def draw(results: Results, path: Path) -> None:
    """Write the picture: a row of two charts for every metric.

    Args:
        results: what to draw; without a finished run the charts stay empty.
        path: PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(results.rows)
    figure = Figure(figsize=(11, (1.2 + 0.32 * count) * len(results.metrics)), layout="constrained")
    axes = figure.subplots(len(results.metrics), 2, sharey=True, squeeze=False)
    for (left, right), metric in zip(axes, results.metrics, strict=True):
        _values(left, results, metric)
        _differences(right, results, metric)
        left.set_yticks(range(count), [row.cell for row in results.rows])
        left.set_ylim(count - 0.5, -0.5)
    FigureCanvasAgg(figure).print_png(path)


def _values(axis: Any, results: Results, metric: str) -> None:
    for place, row in enumerate(results.rows):
        seeds = list(row.values[metric].values())
        axis.plot(seeds, [place] * len(seeds), "o", color="0.7", markersize=4)
        mean = row.metrics[metric].mean
        if mean is not None:
            axis.plot([mean], [place], "D", color="C0", markersize=6)
    axis.set_title(f"{metric}: seeds and mean", fontsize=10)
    axis.grid(axis="x", alpha=0.3)


def _differences(axis: Any, results: Results, metric: str) -> None:
    axis.axvline(0, color="0.4", linewidth=1)
    for place, row in enumerate(results.rows):
        told = row.differences[metric]
        if told.mean is None:
            continue
        if told.low is not None and told.high is not None:
            axis.plot([told.low, told.high], [place, place], color="C0", linewidth=2)
        axis.plot([told.mean], [place], "D", color="C0", markersize=6)
    several = len(results.seeds) > 1
    axis.set_title(
        f"less {BASE}, same seeds" + (", 95 % interval" if several else "; one seed, no interval"), fontsize=10
    )
    axis.grid(axis="x", alpha=0.3)
