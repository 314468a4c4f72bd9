"""How far an evaluation is: a bar with the time left at a terminal, a line twice a minute elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from coprs_lightning.cli_errors import note, rank

_EVERY = 30.0  # seconds between lines


class Progress:
    """Counts examples.

    Args:
        total: examples in all.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self._began = self._told = time.monotonic()

    def advance(self, count: int) -> None:
        """Count examples; several processes count for each other, so that the last batch may count too many."""
        self.done = min(self.total, self.done + count)
        self.show()

    def show(self) -> None:
        """Tell where nobody watches a bar."""
        now = time.monotonic()
        if now - self._told >= _EVERY and self.done:
            self._told = now
            note(f"{self.done:,} of {self.total:,} examples, {self.left(now)} left")

    def left(self, now: float) -> str:
        """Time that the rest takes at the speed so far."""
        seconds = (now - self._began) / self.done * (self.total - self.done) if self.done else 0.0
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@contextmanager
def progress(total: int) -> Iterator[Progress]:
    """The progress of one command; only the first process shows any."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if rank() or not console.is_terminal:
        yield Progress(total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=console) as bars:
        task = bars.add_task("evaluate", total=total)

        class Bar(Progress):
            def show(self) -> None:
                bars.update(task, completed=self.done)

        yield Bar(total)
