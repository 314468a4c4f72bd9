"""From the folders of the runs to one row a variant."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coprs_lightning.ablation.axes import BASE
from coprs_lightning.ablation.plan import LOG, Run
from coprs_lightning.ablation.state import State, failure_of, read_json, results_of, state_of
from coprs_lightning.ablation.statistics import Difference, Summary, paired_difference, summary


@dataclass(frozen=True)
class Row:
    """One cell over its seeds.

    Attributes:
        cell: its name.
        metrics: summary of each metric by name.
        differences: to the base, likewise; those of the base itself have no numbers.
        values: of each metric by name and seed.
        seconds: of `coprs fit`.
        total: parameters; ``None`` where no run told them.
        trainable: those that training changes.
        states: of the cell's runs by seed.
    """

    cell: str
    metrics: dict[str, Summary]
    differences: dict[str, Difference]
    values: dict[str, dict[int, float]]
    seconds: Summary
    total: int | None
    trainable: int | None
    states: dict[int, str]


@dataclass(frozen=True)
class Results:
    """An ablation's results.

    Attributes:
        metrics: their names, the first one leads.
        rows: the base first.
        runs: all of them.
        absent: metrics that finished runs lack, with the names of those that they have.
    """

    metrics: list[str]
    rows: list[Row]
    runs: list[Run]
    absent: dict[str, list[str]]

    @property
    def seeds(self) -> list[int]:
        """In their order."""
        return list(dict.fromkeys(run.seed for run in self.runs))


def collect(cells: Sequence[str], runs: Sequence[Run], metrics: Sequence[str]) -> Results:
    """Read what the finished runs reported.

    Args:
        cells: their names, the base first.
        runs: every run of theirs.
        metrics: ``val/giou``, ``val/giou/left`` (by kind of question), or a name in the runs' ``results.json``.
    """
    contents = {run: results_of(run) for run in runs}
    values = {metric: {cell: _values(cell, contents, metric) for cell in cells} for metric in metrics}
    rows = []
    for cell in cells:
        own = [run for run in runs if run.cell == cell]
        seconds = _values(cell, contents, "fit_seconds")
        total, trainable = _parameters([run for run in own if contents[run]])
        rows.append(
            Row(
                cell=cell,
                metrics={m: summary(list(values[m][cell].values())) for m in metrics},
                differences={m: _difference(cell, values[m]) for m in metrics},
                values={m: values[m][cell] for m in metrics},
                seconds=summary(list(seconds.values())),
                total=total,
                trainable=trainable,
                states={run.seed: state_of(run).value for run in own},
            )
        )
    finished = [content for content in contents.values() if content]
    absent = {m: _names(finished) for m in metrics if finished and all(metric_of(c, m) is None for c in finished)}
    return Results(list(metrics), rows, list(runs), absent)


def _values(cell: str, contents: dict[Run, dict[str, Any]], metric: str) -> dict[int, float]:
    found = {run.seed: metric_of(content, metric) for run, content in contents.items() if run.cell == cell}
    return {seed: value for seed, value in found.items() if value is not None}


def _difference(cell: str, values: dict[str, dict[int, float]]) -> Difference:
    return Difference(0, None, None, None) if cell == BASE else paired_difference(values[cell], values.get(BASE, {}))


def metric_of(content: dict[str, Any], name: str) -> float | None:
    """A number of a run's ``results.json`` by the name under which it is logged."""
    name = name.removeprefix("val/")
    value = (
        content.get("by_kind", {}).get(name.removeprefix("giou/")) if name.startswith("giou/") else content.get(name)
    )
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def _names(contents: list[dict[str, Any]]) -> list[str]:
    kinds = {f"val/giou/{kind}" for content in contents for kind in content.get("by_kind", {})}
    own = {f"val/{name}" for content in contents for name in content if metric_of(content, name) is not None}
    return sorted(own) + sorted(kinds)


def _parameters(runs: Sequence[Run]) -> tuple[int | None, int | None]:
    """Total and trainable parameters as the newest record of a run tells them."""
    for run in runs:
        files = sorted(run.folder.glob("**/provenance.json"), key=lambda file: file.stat().st_mtime)
        for file in reversed(files):
            counted = read_json(file).get("parameters", {}).get("total")
            if counted:
                return int(counted["total"]), int(counted["trainable"])
    return None, None


def command_of(run: Run) -> str:
    """What repeats a run, to paste into a shell."""
    return shlex.join(["coprs", *run.words])


def plain(results: Results) -> dict[str, Any]:
    """Everything as plain data, for ``results.json``."""

    def of(row: Row) -> dict[str, Any]:
        return {
            "cell": row.cell,
            "metrics": {
                name: {**vars(row.metrics[name]), "difference": vars(row.differences[name]), "seeds": row.values[name]}
                for name in results.metrics
            },
            "fit_seconds": vars(row.seconds),
            "parameters": {"total": row.total, "trainable": row.trainable},
            "states": row.states,
        }

    def told(run: Run) -> dict[str, Any]:
        state = state_of(run)
        failure = {"failure": failure_of(run), "log": str(run.folder / LOG)} if state is State.FAILED else {}
        return {
            "cell": run.cell,
            "seed": run.seed,
            "state": state.value,
            "folder": str(run.folder),
            "command": command_of(run),
            **failure,
        }

    return {
        "format": 1,
        "metrics": results.metrics,
        "cells": [of(row) for row in results.rows],
        "runs": [told(run) for run in results.runs],
    }
