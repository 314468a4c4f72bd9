"""Every checkpoint of a run: which ones there are, and the curve of their scores."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coprs_lightning.checkpoints.run_folder import read_header, run_checkpoints
from coprs_lightning.evaluation.results import rows
from coprs_lightning.evaluation.tables import as_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVE = "sweep.csv"
PICTURE = "sweep.png"

_LINES = {"giou": ("gIoU", "-"), "ciou": ("cIoU", "--"), "heatmap_giou": ("heatmap gIoU", ":")}
_COLOURS = {"target": "#c2185b", "expression": "#00695c"}


@dataclass(frozen=True)
class Step:
    """A checkpoint of a run.

    Attributes:
        number: optimizer steps.
        path: the file.
    """

    number: int
    path: Path

    @property
    def folder(self) -> str:
        """Name of the folder of its results."""
        return f"step-{self.number:06d}"


def steps_of(run: str | Path) -> list[Step]:
    """The checkpoints of a run by step, one for each step: ``last.ckpt`` only where no other has its step.

    Raises:
        CommandError: where there is none.
    """
    found: dict[int, Step] = {}
    for path in sorted(run_checkpoints(run), key=lambda file: (file.stem.split("-v")[0] == "last", file.name)):
        number = int(read_header(path)["global_step"])
        found.setdefault(number, Step(number, path))
    return [found[number] for number in sorted(found)]


def curve_text(contents: Sequence[dict[str, Any]]) -> str:
    """``sweep.csv``: the rows of every checkpoint's ``results.csv`` with its step and file in front."""
    found = [
        {"step": content["checkpoint"]["global_step"], "checkpoint": content["checkpoint"]["file"], **row}
        for content in contents
        for row in rows(content["splits"])
    ]
    return as_csv(found)


def write_curve(output: Path, contents: Sequence[dict[str, Any]]) -> None:
    """Write ``sweep.csv`` and ``sweep.png`` of what is evaluated so far."""
    output.mkdir(parents=True, exist_ok=True)
    temporary = output / f".{CURVE}.tmp"
    temporary.write_text(curve_text(contents), encoding="utf-8")
    os.replace(temporary, output / CURVE)
    _draw(contents, output / PICTURE)


def _draw(contents: Sequence[dict[str, Any]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = [
        {"step": content["checkpoint"]["global_step"], **row} for content in contents for row in rows(content["splits"])
    ]
    splits = list(dict.fromkeys(row["split"] for row in table))
    figure = Figure(figsize=(7.0, 3.6 * len(splits)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, split in zip(figure.subplots(len(splits), squeeze=False)[:, 0], splits, strict=True):
        of_split = [row for row in table if row["split"] == split]
        examples = {row["unit"]: row["split_n"] for row in of_split}
        same = len(set(examples.values())) < len(examples)  # a target has one expression
        for unit in list(examples)[: 1 if same else None]:
            _draw_unit(axes, unit, "" if same else f", {unit}", [row for row in of_split if row["unit"] == unit])
        axes.set_xticks(sorted({row["step"] for row in of_split}))
        axes.set_title(split, loc="left", fontsize=10)
        axes.set_xlabel("step")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path)


def _draw_unit(axes: Axes, unit: str, named: str, chosen: Sequence[dict[str, Any]]) -> None:
    steps, colour = [row["step"] for row in chosen], _COLOURS[unit]
    for name, (title, style) in _LINES.items():
        label = f"{title}{named} (n = {chosen[-1]['n']:,})" if name == "giou" else f"{title}{named}"
        axes.plot(steps, [row[name] for row in chosen], style, marker="o", markersize=4, color=colour, label=label)
    ends = ([row[f"giou_{end}"] for row in chosen] for end in ("low", "high"))
    low, high = ([math.nan if value is None else value for value in end] for end in ends)
    axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
