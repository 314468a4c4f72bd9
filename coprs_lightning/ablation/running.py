"""Drives a launcher until every run has ended, and leaves everything in order when it is stopped."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from coprs_lightning.ablation.plan import LOG, Run
from coprs_lightning.ablation.progress import progress
from coprs_lightning.ablation.state import State, failure_of, log_tail, state_of
from coprs_lightning.cli_errors import note

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Launcher(Protocol):
    """Something that runs runs."""

    def submit(self, runs: Sequence[Run]) -> None:
        """Take them on."""

    def poll(self) -> bool:
        """Note what changed in the runs' files, and tell whether anything is left to wait for."""

    def stop(self) -> None:
        """End what runs, so that it may be started again."""


class Stopped(BaseException):
    """A person or the system asked `coprs ablate` to end.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_all(cells: Sequence[str], runs: Sequence[Run], launcher: Launcher, *, metric: str, interval: float) -> int:
    """Run what is not finished yet.

    Args:
        cells: names, for the table.
        runs: all of them.
        launcher: how they run.
        metric: shown as runs finish.
        interval: seconds between looks.

    Returns:
        0, or the number of the signal that ended it early.
    """
    pending = [run for run in runs if state_of(run) is not State.FINISHED]
    done = len(runs) - len(pending)
    if done:
        note(f"{done} of {len(runs)} runs are finished already and are not run again")
    if not pending:
        return 0
    with _stoppable():
        try:
            with progress(cells, runs, metric) as shown:
                launcher.submit(pending)
                while launcher.poll():
                    shown.update()
                    time.sleep(interval)
                shown.update()
        except Stopped as stopped:
            with _unstoppable():
                note(f"stopping ({signal.Signals(stopped.number).name}): the runs at work are ended …")
                launcher.stop()
            note("stopped; the same command goes on with what is not finished")
            return stopped.number
        except BaseException:
            with _unstoppable():
                launcher.stop()
            raise
    return 0


def tell_failures(runs: Sequence[Run]) -> int:
    """Report every failed run with the end of its log; how many there are."""
    failed = [run for run in runs if state_of(run) is State.FAILED]
    for run in failed:
        tail = "\n".join(f"    {line}" for line in log_tail(run).splitlines())
        note(f"{run.name} failed: {failure_of(run)}. The end of {run.folder / LOG}:\n{tail}")
    if failed:
        note(f"{len(failed)} of {len(runs)} runs failed; the same command tries them again")
    return len(failed)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn signals that end a program into :class:`Stopped`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled(stop):
        yield


@contextmanager
def _unstoppable() -> Iterator[None]:
    """Hold further signals off while the children are being ended."""
    with _handled(signal.SIG_IGN):
        yield


@contextmanager
def _handled(handler: object) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield
        return
    before = {number: signal.signal(number, handler) for number in _STOPS}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
