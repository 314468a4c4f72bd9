"""How far a run is, by its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from coprs_lightning.ablation.plan import Run
from coprs_lightning.ablation.state import (
    State,
    failure_of,
    log_tail,
    only_one,
    prepare,
    read_json,
    results_of,
    set_status,
    state_of,
)
from coprs_lightning.commands import CommandError
from tests.ablation.build import leave_failure, leave_results, make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path, "base", 1)


def test_a_run_goes_through_its_states(run: Run) -> None:
    assert state_of(run) is State.WAITING
    prepare(run)
    assert state_of(run) is State.WAITING
    for state in (State.QUEUED, State.RUNNING, State.FAILED):
        set_status(run.folder, state)
        assert state_of(run) is state
    leave_results(run, 0.5)
    assert state_of(run) is State.FINISHED


def test_finished_is_what_has_results_whatever_the_status(run: Run) -> None:
    prepare(run)
    set_status(run.folder, State.FINISHED)  # the process ended, and somebody took the results away
    assert state_of(run) is State.WAITING
    leave_results(run, 0.5)
    set_status(run.folder, State.RUNNING)
    assert state_of(run) is State.FINISHED


def test_results_of_another_command_do_not_count_and_are_kept(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_results(run, 0.5)
    other = make_run(tmp_path, "base", 1, ("--help",))
    assert state_of(other) is State.WAITING
    assert results_of(other) == {}
    prepare(other)
    assert "the configs have changed since; the earlier run is kept as" in capsys.readouterr().err
    assert state_of(other) is State.WAITING
    (kept,) = [path for path in run.folder.parent.iterdir() if path != run.folder]
    assert read_json(kept / "results.json")["giou"] == 0.5


def test_preparing_again_leaves_everything_in_place(run: Run) -> None:
    prepare(run)
    (run.folder / "checkpoints").mkdir()
    prepare(run)
    assert (run.folder / "checkpoints").is_dir()
    assert len(list(run.folder.parent.iterdir())) == 1


def test_half_written_files_are_as_good_as_none(run: Run) -> None:
    leave_results(run, 0.5)
    (run.folder / "results.json").write_text('{"stage": "fi')
    assert state_of(run) is State.WAITING
    (run.folder / "results.json").write_text("[1]")
    assert state_of(run) is State.WAITING


def test_the_end_of_a_log(run: Run) -> None:
    assert log_tail(run) == "(no log)"
    leave_failure(run, exit_status=1)
    assert log_tail(run, 2) == "line 38\nline 39"
    (run.folder / "log.txt").write_bytes(b"one\n\n10%\r20%\r30%\nbad \xff byte\n")
    assert log_tail(run) == "one\n30%\nbad � byte"
    (run.folder / "log.txt").write_bytes(b"")
    assert log_tail(run) == "(empty)"


def test_why_a_run_failed(run: Run) -> None:
    leave_failure(run, exit_status=7)
    assert failure_of(run) == "exit status 7"
    leave_failure(run, exit_status=-9, reason="killed by SIGKILL")
    assert failure_of(run) == "killed by SIGKILL"


def test_two_ablations_in_one_folder_are_refused(tmp_path: Path) -> None:
    with (
        only_one(tmp_path),
        pytest.raises(CommandError, match="another `coprs ablate` is at work in"),
        only_one(tmp_path),
    ):
        pass
    with only_one(tmp_path):  # free again
        pass
