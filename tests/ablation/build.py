"""Runs of an ablation as the folders that they leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from callbacks.files import write_json
from coprs_lightning.ablation.plan import RECORD, RESULTS, Run, digest
from coprs_lightning.ablation.state import State, set_status


def make_run(output: Path, cell: str, seed: int, words: tuple[str, ...] = ("--version",)) -> Run:
    """A run that has not been started."""
    return Run(cell, seed, output / "cells" / cell / f"seed-{seed}", words, digest(list(words)))


def leave_results(run: Run, giou: float | None, **more: Any) -> None:
    """What a finished `coprs fit` leaves, as far as an ablation reads it."""
    write_json(run.folder / RECORD, run.record())
    content = {"stage": "fit", "giou": giou, "by_kind": {"left": giou}, "fit_seconds": 60.0 + run.seed, **more}
    write_json(run.folder / RESULTS, content)
    counts = {"parameters": {"total": {"total": 2000, "trainable": 1500}}}
    write_json(run.folder / "logs" / "version_0" / "provenance.json", counts)
    set_status(run.folder, State.FINISHED, exit_status=0)


def leave_failure(run: Run, **more: Any) -> None:
    """What a failed one leaves."""
    write_json(run.folder / RECORD, run.record())
    (run.folder / "log.txt").write_text("".join(f"line {number}\n" for number in range(40)))
    set_status(run.folder, State.FAILED, **more)
