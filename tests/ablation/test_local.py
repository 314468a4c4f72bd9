"""Runs as processes of this machine: shares, ends and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coprs_lightning.ablation import start
from coprs_lightning.ablation.local import LocalLauncher, finish, share
from coprs_lightning.ablation.plan import Run
from coprs_lightning.ablation.state import State, failure_of, log_tail, prepare, state_of
from tests.ablation.build import leave_results, make_run

CORES = len(os.sched_getaffinity(0))


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_runs_share_the_cores() -> None:
    assert share({}, 0, 1, 0)["OMP_NUM_THREADS"] == str(CORES)
    assert share({}, 0, CORES, 0)["OMP_NUM_THREADS"] == "1"
    assert share({}, 0, 10 * CORES, 0)["OMP_NUM_THREADS"] == "1"
    assert share({"OMP_NUM_THREADS": "1"}, 0, 1, 0)["OMP_NUM_THREADS"] == "1"
    assert share({"OMP_NUM_THREADS": "99999"}, 0, 1, 0)["OMP_NUM_THREADS"] == str(CORES)


def test_runs_share_the_gpus() -> None:
    def devices(place: int, parallel: int, gpus: int, **environment: str) -> str | None:
        return share(environment, place, parallel, gpus).get("CUDA_VISIBLE_DEVICES")

    assert [devices(place, 2, 4) for place in (0, 1)] == ["0,1", "2,3"]
    assert [devices(place, 3, 4) for place in (0, 1, 2)] == ["0", "1", "2"]
    assert devices(1, 2, 2, CUDA_VISIBLE_DEVICES="5,7") == "7"
    assert devices(0, 1, 4) is None  # one at a time: all of them
    assert devices(0, 4, 2) is None  # too few to go round


def test_how_a_run_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path, "base", 1)
    prepare(run)
    for status, told in ((3, "exit status 3"), (-9, "killed by SIGKILL"), (0, "it ended without results.json")):
        finish(run, status)
        assert state_of(run) is State.FAILED
        assert failure_of(run).startswith(told)
    leave_results(run, 0.5)
    finish(run, 0)
    assert state_of(run) is State.FINISHED
    finish(run, 1)  # it wrote results and failed after
    assert state_of(run) is State.FAILED


def test_a_failed_run_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    words = [("nonsense",), ("--version",), ("--help",)]
    runs = [make_run(tmp_path, "base", seed, each) for seed, each in enumerate(words)]
    launcher = LocalLauncher(2)
    launcher.submit(runs)
    assert [state_of(run) for run in runs] == [State.RUNNING, State.RUNNING, State.WAITING]
    wait_for(lambda: not launcher.poll())
    assert [failure_of(run).split(":")[0] for run in runs] == [
        *("exit status 2", "it ended without results.json", "it ended without results.json")
    ]
    assert "`coprs` has no command 'nonsense'" in log_tail(runs[0])
    assert log_tail(runs[1]).startswith("--- ")
    assert "coprs --version" in log_tail(runs[1])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, {start.__file__!r}, str(os.getpid()), '/bin/sleep', '600'])\n"
        "print(child.pid, flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_for(lambda: Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"/bin/sleep"))
        assert alive(child)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_for(lambda: not alive(child), 5)


def test_a_child_of_a_parent_that_is_gone_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, start.__file__, "1", "/bin/echo", "started"], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")


def test_stopping_ends_what_runs_and_leaves_it_to_be_started_again(tmp_path: Path) -> None:
    class Sleeper(Run):
        """Its command takes for ever, and its first child too."""

        def command(self) -> list[str]:
            return ["/bin/sh", "-c", "sleep 600 & echo $!; wait"]

    runs = [Sleeper("base", seed, tmp_path / f"seed-{seed}", ("x",), "d") for seed in (1, 2)]
    launcher = LocalLauncher(1)
    launcher.submit(runs)
    log = runs[0].folder / "log.txt"
    wait_for(lambda: log.is_file() and log.read_text().splitlines()[-1].isdigit())
    grandchild = int(log.read_text().splitlines()[-1])
    assert alive(grandchild)
    launcher.stop()
    wait_for(lambda: not alive(grandchild), 5)
    assert not launcher.poll()
    assert [state_of(run) for run in runs] == [State.WAITING, State.WAITING]
