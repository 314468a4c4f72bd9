"""The results as a page, as CSV and on the terminal."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from coprs_lightning.ablation.axes import BASE
from coprs_lightning.ablation.plan import LOG
from coprs_lightning.ablation.results import Results, Row, command_of
from coprs_lightning.ablation.state import State, failure_of, state_of
from coprs_lightning.ablation.statistics import Difference, Summary

if TYPE_CHECKING:
    from rich.table import Table

_DIGITS = 4
_CSV_SCORES = ("cell", "metric", "n", "mean", "sd", "difference", "difference_n", "low", "high")


def mean_text(told: Summary) -> str:
    """``0.6123 ± 0.0102``; without a deviation where there is one seed."""
    if told.mean is None:
        return "–"
    return f"{told.mean:.{_DIGITS}f}" + ("" if told.sd is None else f" ± {told.sd:.{_DIGITS}f}")


def difference_text(told: Difference) -> str:
    """``+0.0120 [-0.0030, +0.0270]``; without an interval where there is one seed."""
    if told.mean is None:
        return "–"
    interval = "" if told.low is None else f" [{told.low:+.{_DIGITS}f}, {told.high:+.{_DIGITS}f}]"
    return f"{told.mean:+.{_DIGITS}f}{interval}"


def header(results: Results) -> list[str]:
    """Names of the columns of :func:`cells`."""
    scores = [name for metric in results.metrics for name in (metric, f"{metric} less {BASE}")]
    return ["cell", "n", *scores, "fit seconds", "parameters", "trainable"]


def cells(results: Results, row: Row) -> list[str]:
    """One line of the table."""
    scores: list[str] = []
    for metric in results.metrics:
        own = "" if row.cell == BASE else difference_text(row.differences[metric])
        scores += [mean_text(row.metrics[metric]), own]
    seconds = "–" if row.seconds.mean is None else f"{row.seconds.mean:.1f}"
    if row.seconds.sd is not None:
        seconds += f" ± {row.seconds.sd:.1f}"
    done = sum(state == State.FINISHED.value for state in row.states.values())
    n = str(done) if done == len(row.states) else f"{done} of {len(row.states)}"
    return [row.cell, n, *scores, seconds, *("–" if v is None else f"{v:,}" for v in (row.total, row.trainable))]


def notes(results: Results, parallel: int | None = None) -> list[str]:
    """What a reader of the table must know."""
    told = []
    if len(results.seeds) == 1:
        told.append(
            "One seed: there is no deviation and no interval, so that no difference here is known to be more than "
            "chance. Give --seeds 3 or more."
        )
    else:
        told.append(
            "Mean ± sample standard deviation over seeds; `less base` is the mean difference to the base with the same "
            "seeds and its 95 % t-interval. An interval that holds 0 shows no difference; one of 20 misses the truth."
        )
    if parallel is not None and parallel > 1:
        told.append(f"Up to {parallel} runs shared the machine: their seconds compare with each other at best.")
    for metric, names in results.absent.items():
        told.append(f"No finished run has {metric}. There are: {', '.join(names)}.")
    return told


def markdown(results: Results, parallel: int | None = None) -> str:
    """``results.md``: table, failures, and the command of every run."""

    def line(values: list[str]) -> str:
        return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"

    names = header(results)
    lines = ["# Ablation", "", line(names), line(["---", *["---:"] * (len(names) - 1)])]
    lines += [line(cells(results, row)) for row in results.rows]
    lines += ["", *(f"{note}\n" for note in notes(results, parallel)), "![results](results.png)", ""]
    failed = [run for run in results.runs if state_of(run) is State.FAILED]
    if failed:
        lines += ["## Failed", ""]
        lines += [f"- {run.name}: {failure_of(run)}; log: `{run.folder / LOG}`" for run in failed]
        lines.append("")
    lines += ["## Commands", "", "Each of these repeats one run.", "", "```sh"]
    lines += [command_of(run) for run in results.runs]
    return "\n".join([*lines, "```", ""])


def csv_text(results: Results) -> str:
    """``results.csv``: one line for every cell and metric, full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    cost = ("fit_seconds", "fit_seconds_sd", "parameters", "trainable")
    writer.writerow([*_CSV_SCORES, *cost, *(f"seed_{seed}" for seed in results.seeds)])
    for row in results.rows:
        for metric in results.metrics:
            own, less = row.metrics[metric], row.differences[metric]
            values: list[Any] = [row.cell, metric, own.n, own.mean, own.sd, less.mean, less.n, less.low, less.high]
            values += [row.seconds.mean, row.seconds.sd, row.total, row.trainable]
            values += [row.values[metric].get(seed) for seed in results.seeds]
            writer.writerow(["" if value is None else value for value in values])
    return text.getvalue()


def terminal(results: Results) -> Table:
    """The table for a terminal, or for a file as Markdown."""
    from rich.box import MARKDOWN
    from rich.table import Column, Table

    first, *others = header(results)
    table = Table(Column(first, no_wrap=True), *(Column(name, justify="right") for name in others), box=MARKDOWN)
    for row in results.rows:
        table.add_row(*cells(results, row))
    return table
