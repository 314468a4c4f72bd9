"""A correlation as a picture, a table and a few numbers, on disk and in the loggers."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.correlation_fit import LineFit, band, fit_line
from callbacks.drawing import render, save_pixels
from callbacks.files import write_json

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from matplotlib.figure import Figure

_POINT, _LINE, _DIAGONAL = "#3b6fb5", "#c2410c", "#999999"


@dataclass(frozen=True)
class Correlation:
    """Pairs of scores and what they are.

    Attributes:
        name: of the files, such as ``val-step-000900``.
        title: heading of the picture.
        columns: names of x and y in the table, and labels of the axes.
        rows: further columns of the table by name (example keys, steps), each as long as ``x``.
        x: n values.
        y: n values.
        facts: what else is to be told (numbers seen and left out).
        unit_square: both scores lie in [0, 1].
        diagonal: they can be compared, so that the line y = x says something.
    """

    name: str
    title: str
    columns: tuple[str, str]
    rows: dict[str, Sequence[Any]]
    x: Sequence[float]
    y: Sequence[float]
    facts: dict[str, Any] = field(default_factory=dict)
    unit_square: bool = True
    diagonal: bool = False

    def fit(self) -> LineFit:
        """The line through the points."""
        return fit_line(self.x, self.y)


def draw(correlation: Correlation) -> Figure:
    """Scatter plot with line and confidence band, for :func:`callbacks.drawing.render`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    x, y, fit = np.asarray(correlation.x), np.asarray(correlation.y), correlation.fit()
    figure = Figure(figsize=(6, 5.2), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter(x, y, s=14, c=_POINT, alpha=max(0.12, min(0.6, 60 / max(len(x), 1))), linewidths=0, zorder=2)
    if correlation.diagonal:
        axes.plot((0, 1), (0, 1), color=_DIAGONAL, linewidth=1, linestyle=":", zorder=1, label="y = x")
    if fit.determined:
        at = np.linspace(x.min(), x.max(), 100)
        line, low, high = band(fit, at.tolist())
        axes.fill_between(at, low, high, color=_LINE, alpha=0.2, linewidth=0, zorder=3)
        axes.plot(at, line, color=_LINE, linewidth=1.8, zorder=4, label="least squares, 95 % band")
    if correlation.unit_square:
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.set_xlabel(correlation.columns[0].replace("_", " "), parse_math=False)
    axes.set_ylabel(correlation.columns[1].replace("_", " "), parse_math=False)
    axes.set_title(f"{correlation.title}\n{fit.label()}", fontsize=10.5, parse_math=False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", frameon=False, fontsize=8.5)
    return figure


def write(correlation: Correlation, folder: Path) -> np.ndarray:
    """Write ``<name>.png``, ``.csv`` (the points) and ``.json`` (the line and the facts).

    Returns:
        (h, w, 3) uint8, the picture.
    """
    pixels = render(draw(correlation))
    save_pixels(pixels, folder / f"{correlation.name}.png")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [*correlation.rows, *correlation.columns]
    writer.writerow(names)
    writer.writerows(zip(*correlation.rows.values(), correlation.x, correlation.y, strict=True))
    path = folder / f"{correlation.name}.csv"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(text.getvalue().encode("utf-8", "backslashreplace"))
    os.replace(temporary, path)
    content = {"title": correlation.title, "x": correlation.columns[0], "y": correlation.columns[1]}
    write_json(folder / f"{correlation.name}.json", {**content, **correlation.facts, **correlation.fit().plain()})
    return pixels


def publish(correlation: Correlation, folder: Path, trainer: pl.Trainer, stage: str, name: str) -> None:
    """Write the files and give the picture to loggers that take pictures; a failure costs a warning, never the run.

    Args:
        correlation: what is told.
        folder: of the files.
        trainer: its loggers get the picture as ``<stage>/correlation/<name>``.
        stage: ``train``, ``val`` or ``test``.
        name: of the correlation.
    """
    try:
        pixels = write(correlation, folder)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(
                    f"{stage}/correlation/{name}", pixels, trainer.global_step, dataformats="HWC"
                )
            elif callable(log_image := getattr(logger, "log_image", None)):  # Weights & Biases, and others like it
                log_image(key=f"{stage}/correlation/{name}", images=[pixels], step=trainer.global_step)
    except Exception as error:
        rank_zero_warn(
            f"the correlation {correlation.name} could not be written ({type(error).__name__}: {error}); "
            "the run goes on."
        )
