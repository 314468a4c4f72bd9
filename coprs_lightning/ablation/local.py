"""Runs cells as processes of this machine, a few at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from coprs_lightning.ablation import start
from coprs_lightning.ablation.plan import LOG, RESULTS, Run
from coprs_lightning.ablation.state import State, prepare, results_of, set_status

_GRACE = 15.0  # seconds between asking a cell to end and killing it
SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
"""What looking at the cells leaves in the environment, and no run must inherit."""


class LocalLauncher:
    """Starts runs as children that end with this process.

    Args:
        parallel: runs at a time.
        gpus: GPUs of this machine; several runs at a time share them out.
    """

    def __init__(self, parallel: int, gpus: int = 0) -> None:
        self.parallel = parallel
        self._gpus = gpus
        self._running: dict[int, tuple[Run, subprocess.Popen[bytes]]] = {}

    def submit(self, runs: Sequence[Run]) -> None:
        """Take on runs; they start as places get free."""
        self._waiting = list(runs)
        self.poll()

    def poll(self) -> bool:
        """Note which runs ended, start others, and tell whether anything is left to do."""
        for place, (run, process) in list(self._running.items()):
            if process.poll() is not None:
                del self._running[place]
                finish(run, process.returncode)
        for place in range(self.parallel):
            if place not in self._running and self._waiting:
                run = self._waiting.pop(0)
                self._running[place] = (run, self._start(run, place))
        return bool(self._running)

    def _start(self, run: Run, place: int) -> subprocess.Popen[bytes]:
        prepare(run)
        command = [sys.executable, str(Path(start.__file__)), str(os.getpid()), *run.command()]
        environment = share(dict(os.environ), place, self.parallel, self._gpus)
        process = launch(run, command, environment, own_session=True)
        set_status(run.folder, State.RUNNING, pid=process.pid)
        return process

    def stop(self) -> None:
        """End what runs, so that it may be started again."""
        self._waiting = []
        running, self._running = list(self._running.values()), {}
        for number in (signal.SIGTERM, signal.SIGKILL):
            for _, process in running:
                if process.poll() is None:
                    os.killpg(process.pid, number)
            deadline = time.monotonic() + _GRACE
            while any(process.poll() is None for _, process in running) and time.monotonic() < deadline:
                time.sleep(0.05)
        for run, _ in running:
            if not results_of(run):
                set_status(run.folder, State.WAITING, reason="interrupted")


def launch(run: Run, command: list[str], environment: dict[str, str], *, own_session: bool) -> subprocess.Popen[bytes]:
    """Start a run's process, with its output added to the log in its folder.

    Args:
        run: what is started.
        command: its words, as the operating system gets them.
        environment: of the process.
        own_session: keep a terminal's Ctrl-C from it, so that whoever started it ends it in order.
    """
    with (run.folder / LOG).open("ab") as log:
        log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} coprs {' '.join(run.words)}\n".encode())
        log.flush()
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in environment.items() if name not in SEED_VARIABLES},
            start_new_session=own_session,
        )


def finish(run: Run, exit_status: int) -> None:
    """Record how a run ended; only results count."""
    if results_of(run) and exit_status == 0:
        set_status(run.folder, State.FINISHED, exit_status=exit_status)
    elif exit_status < 0:
        name = signal.Signals(-exit_status).name
        set_status(run.folder, State.FAILED, exit_status=exit_status, reason=f"killed by {name}")
    elif exit_status == 0:
        reason = f"it ended without {RESULTS}: was callbacks.results switched off, or training cut short?"
        set_status(run.folder, State.FAILED, exit_status=exit_status, reason=reason)
    else:
        set_status(run.folder, State.FAILED, exit_status=exit_status)
    if exit_status != 0:
        (run.folder / RESULTS).unlink(missing_ok=True)  # written, and then it failed


def share(environment: dict[str, str], place: int, parallel: int, gpus: int) -> dict[str, str]:
    """The environment of one of several runs at a time.

    Args:
        environment: of this process.
        place: number of the run among those at a time.
        parallel: runs at a time.
        gpus: GPUs of this machine.

    Returns:
        the same with its part of the cores in ``OMP_NUM_THREADS``, unless that was set lower, and its part of the GPUs.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // parallel)
    given = environment.get("OMP_NUM_THREADS", "")
    threads = min(threads, int(given)) if given.isdigit() and int(given) else threads
    shared = {**environment, "OMP_NUM_THREADS": str(threads)}
    if parallel > 1 and gpus >= parallel:
        named = environment.get("CUDA_VISIBLE_DEVICES")
        devices = named.split(",") if named else [str(number) for number in range(gpus)]
        each = gpus // parallel
        shared["CUDA_VISIBLE_DEVICES"] = ",".join(devices[place * each : (place + 1) * each])
    return shared
