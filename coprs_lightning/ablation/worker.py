"""What a job of an array does: one run, and a note of how it ended. Sent to the job by submitit."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from coprs_lightning.ablation.local import SEED_VARIABLES, finish, launch
from coprs_lightning.ablation.plan import Run
from coprs_lightning.ablation.state import State, set_status


def run_cell(content: dict[str, Any]) -> int:
    """Run `coprs fit` of one run in this SLURM task.

    Args:
        content: ``Run`` as plain data, see :func:`as_plain`.

    Returns:
        exit status of this task's process.
    """
    run = from_plain(content)
    first = os.environ.get("SLURM_PROCID", "0") == "0"
    # both end submitit's process; the run has its own manners for them
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if first:
        job = os.environ.get("SLURM_JOB_ID")
        set_status(run.folder, State.RUNNING, slurm_job=job, node=os.environ.get("SLURMD_NODENAME"))
    status = _run(run, first)
    if first:
        finish(run, status)
    return status


def _run(run: Run, first: bool) -> int:
    environment = {name: value for name, value in os.environ.items() if name not in SEED_VARIABLES}
    environment.setdefault("OMP_NUM_THREADS", environment.get("SLURM_CPUS_PER_TASK", "1"))
    if first:
        return launch(run, run.command(), environment, own_session=False).wait()
    # the other ranks' output goes to the files of their tasks
    return subprocess.run(run.command(), stdin=subprocess.DEVNULL, env=environment, check=False).returncode


def as_plain(run: Run) -> dict[str, Any]:
    """A run as data that any version of this module reads."""
    return {**run.record(), "folder": str(run.folder.absolute())}


def from_plain(content: dict[str, Any]) -> Run:
    """The run that :func:`as_plain` wrote."""
    words = tuple(content["words"])
    return Run(content["cell"], content["seed"], Path(content["folder"]), words, content["digest"])
