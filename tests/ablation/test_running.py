"""Driving a launcher: what is told meanwhile, and how it is stopped."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from coprs_lightning.ablation.local import LocalLauncher
from coprs_lightning.ablation.plan import Run
from coprs_lightning.ablation.progress import Progress
from coprs_lightning.ablation.running import run_all, tell_failures
from coprs_lightning.ablation.state import State, prepare, set_status, state_of
from tests.ablation.build import leave_failure, leave_results, make_run


class Sleeper(Run):
    """A run that takes for ever."""

    def command(self) -> list[str]:
        return ["/bin/sleep", "600"]


class Untouched:
    """A launcher that must not be asked."""

    def submit(self, runs: Sequence[Run]) -> None:
        raise AssertionError(runs)

    poll = stop = submit  # type: ignore[assignment]


def drive(cells: list[str], runs: Sequence[Run], launcher: LocalLauncher | Untouched) -> int:
    return run_all(cells, runs, launcher, metric="val/giou", interval=0.05)  # type: ignore[arg-type]


def test_finished_runs_are_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path, "base", seed) for seed in (1, 2)]
    for run in runs:
        leave_results(run, 0.5)
    assert drive(["base"], runs, Untouched()) == 0
    assert "2 of 2 runs are finished already and are not run again" in capsys.readouterr().err


def test_only_what_is_missing_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, failed, fresh = (make_run(tmp_path, "base", seed) for seed in (1, 2, 3))
    leave_results(done, 0.5)
    leave_failure(failed, exit_status=1)
    assert drive(["base"], [done, failed, fresh], LocalLauncher(2)) == 0
    told = capsys.readouterr().err
    assert "1 of 3 runs are finished already" in told
    for run in (failed, fresh):  # neither leaves results, being no `coprs fit`
        assert f"{run.name}: failed: it ended without results.json" in told
    assert f"{done.name}: " not in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_children_and_leaves_the_runs_to_be_started_again(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Sleeper("base", 1, tmp_path / "seed-1", ("x",), "d")
    before = signal.getsignal(number)

    def stop_soon() -> None:
        while state_of(run) is not State.RUNNING:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop_soon).start()
    assert drive(["base"], [run], LocalLauncher(1)) == number
    assert state_of(run) is State.WAITING
    told = capsys.readouterr().err
    assert f"stopping ({number.name})" in told
    assert "the same command goes on with what is not finished" in told
    assert signal.getsignal(number) is before


def test_a_bug_in_between_ends_the_children_too(tmp_path: Path) -> None:
    class Broken(LocalLauncher):
        """Starts the run, and breaks at the next look."""

        def poll(self) -> bool:
            if self._running:
                raise ZeroDivisionError
            return super().poll()

    run = Sleeper("base", 1, tmp_path / "seed-1", ("x",), "d")
    launcher = Broken(1)
    with pytest.raises(ZeroDivisionError):
        drive(["base"], [run], launcher)
    assert state_of(run) is State.WAITING


def test_failures_are_told_with_the_end_of_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path, "base", seed) for seed in (1, 2)]
    leave_results(runs[0], 0.5)
    leave_failure(runs[1], exit_status=1)
    assert tell_failures(runs) == 1
    told = capsys.readouterr().err
    assert f"base, seed 2 failed: exit status 1. The end of {runs[1].folder / 'log.txt'}:" in told
    assert "    line 25\n" in told
    assert "line 24\n" not in told
    assert "1 of 2 runs failed; the same command tries them again" in told
    assert tell_failures(runs[:1]) == 0


def test_changes_are_told_line_by_line_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, "base", 1)
    progress = Progress(["base"], [run], "val/giou")
    progress.update()
    assert capsys.readouterr().err == ""
    prepare(run)
    set_status(run.folder, State.RUNNING)
    progress.update()
    progress.update()
    assert capsys.readouterr().err == "coprs: base, seed 1: running  (0 of 1 finished, 0:00:00)\n"
    leave_results(run, 0.5)
    progress.update()
    assert capsys.readouterr().err == "coprs: base, seed 1: finished, val/giou 0.5000  (1 of 1 finished, 0:00:00)\n"


def test_the_live_table_shows_every_seed_and_the_step(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "base", seed) for seed in (1, 2, 3, 4)]
    leave_results(runs[0], 0.5)
    leave_failure(runs[1], exit_status=1)
    prepare(runs[2])
    set_status(runs[2].folder, State.RUNNING)
    metrics = runs[2].folder / "logs" / "version_0" / "metrics.csv"
    metrics.parent.mkdir(parents=True)
    metrics.write_text("step,loss\n49,1.0\n99,0.5\n")
    screen = Console(file=io.StringIO(), width=100)
    screen.print(Progress(["base"], runs, "val/giou").table())
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "✓ ✗ ▶ ·" in text
    assert "1 of 4 runs finished" in text
    assert "0.5000" in text
    assert "seed 3: step 99, 0:00:0" in text
