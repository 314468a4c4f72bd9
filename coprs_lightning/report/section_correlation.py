"""Does the mask follow heatmap and thought? Scatter plots with line and band (paper Figure 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from callbacks.correlation_fit import band, fit_line
from callbacks.correlation_points import KeyedSample, Point
from coprs_lightning.report.charts import scatter
from coprs_lightning.report.example_lines import ExampleLine
from coprs_lightning.report.html import esc, note, number
from coprs_lightning.report.run_files import RunFiles, as_dict, as_number, read_json, read_table

_DRAWN = 1500
"""Points of a plot; the fit has all of them."""


@dataclass(frozen=True)
class _Plot:
    title: str
    names: tuple[str, str]
    points: Sequence[Point]
    remark: str = ""
    unit_square: bool = True
    diagonal: bool = True


def correlations(run: RunFiles, examples: Sequence[ExampleLine]) -> str:
    """Plots of every evaluated split and of training; the newest validation's where nothing was evaluated."""
    plots = [plot for split in dict.fromkeys(one.split for one in examples) for plot in _of_split(split, examples)]
    if not plots:
        plots = [plot for path in _newest_validation(run) if (plot := _of_file(path)) is not None]
    if training := _of_training(run):
        plots.append(training)
    drawn = [_figure(plot) for plot in plots if len(plot.points) >= 3]
    if not drawn:
        return note(
            "There are not enough points: neither an evaluation nor a validation with the correlation callbacks."
        )
    remark = (
        '<p class="soft">Line: least squares with the 95 % confidence band of the mean; R is Pearson\'s, with its 95 % '
        "interval; dotted: y = x, above it the mask is better than the heatmap it came from. Examples without a "
        "concentration token or without a target are left out of heatmap against mask.</p>"
    )
    return f'{remark}<div class="grid">{"".join(drawn)}</div>'


def headline(examples: Sequence[ExampleLine]) -> list[tuple[str, str]]:
    """R of heatmap and mask in the last split (the test split, where there is one), as a tile."""
    if not examples:
        return []
    split = examples[-1].split
    points = _looked([one for one in examples if one.split == split])
    fit = fit_line([point.x for point in points], [point.y for point in points])
    name = f"R of heatmap and mask, {split} (n = {fit.n:,})"
    return [(name, number(fit.r, 2))] if math.isfinite(fit.r) else []


def _looked(chosen: Sequence[ExampleLine]) -> list[Point]:
    looked = [one for one in chosen if one.heatmap_iou is not None and one.present and not one.no_target]
    return [Point(one.key, float(one.heatmap_iou or 0.0), one.iou, one.kind) for one in looked]


def _of_split(split: str, examples: Sequence[ExampleLine]) -> list[_Plot]:
    chosen = [one for one in examples if one.split == split]
    thought = [one for one in chosen if one.thought_score is not None]
    plots = [_Plot(f"{split}: heatmap and mask", ("heatmap IoU", "mask IoU"), _looked(chosen))]
    if thought:
        score = [Point(one.key, float(one.thought_score or 0.0), one.iou, one.kind) for one in thought]
        right = sum(point.x == 1 for point in score)
        remark = f"{right:,} of {len(score):,} thoughts are all right."
        names = ("F1 of the thought's facts", "mask IoU")
        plots.append(_Plot(f"{split}: thought and mask", names, score, remark, diagonal=False))
    return plots


def _newest_validation(run: RunFiles) -> list[Path]:
    found = run.newest("correlation/*-step-*.csv")
    newest = max((path.stem.rpartition("-")[2] for path in found), default="")
    chosen = [path for path in found if path.stem.endswith(f"-{newest}")]
    return sorted(chosen, key=lambda path: ("thought" in path.stem, path.stem))


def _of_file(path: Path) -> _Plot | None:
    rows = list(read_table(path))
    names = list(rows[0])[-2:] if rows else []
    if len(names) < 2:
        return None
    points = []
    for index, row in enumerate(rows):
        x, y = as_number(row[names[0]]), as_number(row[names[1]])
        if x is not None and y is not None:
            points.append(Point(str(row.get("key") or index), x, y, str(row.get("kind") or "")))
    told = as_dict(read_json(path.with_suffix(".json"))).get("title")
    x_name, y_name = (name.replace("_", " ").replace("iou", "IoU") for name in names)
    return _Plot(str(told or path.stem), (x_name, y_name), points, diagonal="thought" not in names[0])


def _of_training(run: RunFiles) -> _Plot | None:
    found = run.newest("correlation/train.csv")
    points = []
    for row in read_table(found[0]) if found else ():
        x, y = as_number(row.get("one_minus_heatmap_bce")), as_number(row.get("one_minus_mask_dice_loss"))
        if x is not None and y is not None:
            points.append(Point(f"step {row.get('step', '?')}", x, y))
    names = ("1 − BCE of the heatmap", "1 − Dice loss of the mask")
    return (
        _Plot("training batches: heatmap and mask", names, points, unit_square=False, diagonal=False)
        if points
        else None
    )


def _figure(plot: _Plot) -> str:
    x, y = [point.x for point in plot.points], [point.y for point in plot.points]
    fit = fit_line(x, y)
    if min(x) == max(x):
        text = f"All {len(x):,} examples have {plot.names[0]} {x[0]:.2f}: there is nothing to correlate."
        return f"<figure><h3>{esc(plot.title)}</h3><p>{esc(text)}</p></figure>"
    line = None
    if fit.determined:
        at = np.linspace(min(x), max(x), 100)
        if plot.unit_square:  # which a line may leave
            at = at[np.abs(fit.intercept + fit.slope * at - 0.5) <= 0.5]
        middle, low, high = (values.tolist() for values in band(fit, at.tolist()))
        line = (at.tolist(), middle, low, high)
    sample = KeyedSample(_DRAWN)
    sample.merge(plot.points)
    shown = [(point.x, point.y, f"{point.key}{f' ({point.kind})' if point.kind else ''}") for point in sample.points()]
    remarks = [plot.remark] if plot.remark else []
    if fit.determined:
        remarks.append(f"Slope {fit.slope:.2f}, intercept {fit.intercept:.2f}.")
    if len(shown) < len(x):
        remarks.append(f"Drawn are {len(shown):,} of the {len(x):,} points; the line is that of all.")
    return (
        f"<figure><h3>{esc(plot.title)}</h3><p><b>{esc(fit.label())}</b></p>"
        f"{scatter(shown, names=plot.names, line=line, unit_square=plot.unit_square, diagonal=plot.diagonal)}"
        f"<figcaption>{esc(' '.join(remarks))}</figcaption></figure>"
    )
