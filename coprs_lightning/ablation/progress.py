"""How far an ablation is: a live table at a terminal, a line for every change elsewhere."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from coprs_lightning.ablation.plan import Run
from coprs_lightning.ablation.results import metric_of
from coprs_lightning.ablation.state import State, failure_of, read_json, results_of, state_of
from coprs_lightning.ablation.statistics import Summary, summary
from coprs_lightning.ablation.tables import mean_text
from coprs_lightning.cli_errors import note

if TYPE_CHECKING:
    from rich.table import Table

_MARKS = {
    State.WAITING: "·",
    State.QUEUED: "…",
    State.RUNNING: "[yellow]▶[/]",
    State.FINISHED: "[green]✓[/]",
    State.FAILED: "[red]✗[/]",
}


class Progress:
    """Tells changes, one line each.

    Args:
        cells: names.
        runs: of them.
        metric: to show.
    """

    def __init__(self, cells: Sequence[str], runs: Sequence[Run], metric: str) -> None:
        self.cells, self.runs, self.metric = list(cells), list(runs), metric
        self.began = time.monotonic()
        self.states = {run.folder: state_of(run) for run in runs}
        self._values: dict[Path, float | None] = {}

    def update(self) -> None:
        """Look at the runs again."""
        for run in self.runs:
            state, before = state_of(run), self.states[run.folder]
            if state is not before:
                self.states[run.folder] = state
                self.tell(run, state)

    def tell(self, run: Run, state: State) -> None:
        """Say what became of a run."""
        done = sum(state is State.FINISHED for state in self.states.values())
        more = ""
        if state is State.FINISHED:
            more = f", {self.metric} {mean_text(self._so_far([run]))}"
        elif state is State.FAILED:
            more = f": {failure_of(run)}"
        note(f"{run.name}: {state.value}{more}  ({done} of {len(self.runs)} finished, {_clock(self.began)})")

    def _so_far(self, runs: Sequence[Run]) -> Summary:
        values = []
        for run in runs:
            if self.states[run.folder] is State.FINISHED:
                if run.folder not in self._values:
                    self._values[run.folder] = metric_of(results_of(run), self.metric)
                values.append(self._values[run.folder])
        return summary([value for value in values if value is not None])

    def table(self) -> Table:
        """All cells with a mark for every seed."""
        from rich.table import Table

        done = sum(state is State.FINISHED for state in self.states.values())
        title = f"{done} of {len(self.runs)} runs finished, {_clock(self.began)}"
        table = Table("cell", "seeds", self.metric, "now", title=title, title_justify="left")
        for cell in self.cells:
            own = [run for run in self.runs if run.cell == cell]
            marks = " ".join(_MARKS[self.states[run.folder]] for run in own)
            now = [f"seed {run.seed}: {_step(run)}" for run in own if self.states[run.folder] is State.RUNNING]
            table.add_row(cell, marks, mean_text(self._so_far(own)), ", ".join(now))
        return table


@contextmanager
def progress(cells: Sequence[str], runs: Sequence[Run], metric: str) -> Iterator[Progress]:
    """The progress of one ablation on stderr."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Progress(cells, runs, metric)
        return
    with Live(console=console, auto_refresh=False) as live:

        class Shown(Progress):
            def tell(self, run: Run, state: State) -> None:
                if state is State.FAILED:
                    console.print(f"[red]{run.name}: {failure_of(run)}[/]", highlight=False)

            def update(self) -> None:
                super().update()
                live.update(self.table(), refresh=True)

        yield Shown(cells, runs, metric)


def _step(run: Run) -> str:
    """The last step that a run's CSV log tells, and the time since it started."""
    began = read_json(run.folder / "status.json").get("time", time.time())
    files = sorted(run.folder.glob("logs/version_*/metrics.csv"), key=lambda file: file.stat().st_mtime)
    if not files:
        return _clock(time.monotonic() - (time.time() - began))
    try:
        with files[-1].open(encoding="utf-8", newline="") as file:
            steps = [row["step"] for row in csv.DictReader(file) if row.get("step")]
    except (OSError, KeyError, csv.Error):  # being written
        steps = []
    return f"step {steps[-1]}, " * bool(steps) + _clock(time.monotonic() - (time.time() - began))


def _clock(since: float) -> str:
    minutes, seconds = divmod(round(time.monotonic() - since), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
