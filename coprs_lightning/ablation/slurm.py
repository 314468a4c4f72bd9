"""Runs cells as one SLURM job array, through submitit.

How far a run is, its own files tell; `squeue` tells only whether its job is still there. `sacct` is not asked: many
clusters keep no accounts, and submitit then waits for ever.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from callbacks.files import write_json
from coprs_lightning.ablation.plan import Run
from coprs_lightning.ablation.state import State, prepare, read_json, results_of, set_status
from coprs_lightning.ablation.worker import as_plain, run_cell
from coprs_lightning.cli_configs import find_config, load_yaml, options
from coprs_lightning.cli_errors import note
from coprs_lightning.cli_schema import suggest
from coprs_lightning.commands import CommandError, UsageError
from coprs_lightning.slurm.times import minutes

JOB = "job.json"
OPTIONS = {
    "time": "limit of one run: 90 (minutes) or 1-12:00:00",
    "partition": "queue",
    "account": "whom to charge",
    "qos": "quality of service",
    "constraint": "features that a node must have",
    "exclude": "nodes to avoid",
    "nodelist": "nodes to use",
    "reservation": "reservation to run in",
    "gpus_per_node": "GPUs; by default one for each task where the Trainer asks for GPUs",
    "cpus_per_task": "cores of one process",
    "mem": "memory of a node, 32GB",
    "setup": "list of shell lines before the run (in a file of options only)",
}
"""``--slurm.NAME``, or lines of ``--slurm FILE``."""

_NAME = "coprs-ablate"
_ELSEWHERE = ("reservation",)  # sbatch has it, submitit has no name for it
_LOST_AFTER = 20.0  # seconds without job and without a word; network file systems show files late


def slurm_options(file: str | None, words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Split ``--slurm.…`` off the words for the cells.

    Args:
        file: YAML mapping of options, or ``None``.
        words: everything that is no option of `coprs ablate`.

    Returns:
        SLURM's options, and the other words.

    Raises:
        UsageError: for an unknown option, or one without a value.
    """
    found = dict(load_yaml(find_config(file))) if file else {}
    rest: list[str] = []
    for option in options(words):
        if not option.name.startswith("--slurm."):
            rest += option.words()
        elif option.value is None:
            raise UsageError(f"{option.name} needs a value.")
        else:
            found[option.name.removeprefix("--slurm.")] = option.value
    for name in found:
        if name not in OPTIONS:
            raise UsageError(
                f"SLURM's option {name!r} (--slurm.{name}) is not known.{suggest(name, OPTIONS, 'Options')}"
            )
    return found, rest


def shape_of(trainers: dict[str, Any]) -> tuple[int, int, bool]:
    """Nodes, tasks a node and whether they need GPUs, by the Trainer's options of every cell.

    Raises:
        UsageError: where they differ between cells, or leave the number of devices open.
    """
    shapes: dict[tuple[int, int, bool], str] = {}
    for cell, trainer in trainers.items():
        devices = trainer.devices
        count = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 0
        if count < 1:
            raise UsageError(
                f"cell {cell}: trainer.devices is {devices!r}, so it is open how many tasks its job must have. Give "
                "--trainer.devices N."
            )
        shapes[int(trainer.num_nodes or 1), count, str(trainer.accelerator) in ("gpu", "cuda")] = cell
    if len(shapes) > 1:
        listing = ", ".join(f"{cell}: {n} × {d}{' GPUs' if g else ''}" for (n, d, g), cell in shapes.items())
        raise UsageError(
            f"cells differ in trainer.num_nodes, devices or accelerator ({listing}), but the jobs of an array are all "
            "of one shape. Ablate them in calls of their own."
        )
    return next(iter(shapes))


class SlurmLauncher:
    """Submits runs as one job array and watches it.

    Args:
        folder: for submitit's files; every node must see it.
        parallel: runs at a time, the array's ``%N``.
        given: see :data:`OPTIONS`.
        shape: see :func:`shape_of`.

    Raises:
        CommandError: without submitit or SLURM.
        UsageError: without a time limit.
    """

    def __init__(self, folder: Path, parallel: int, given: dict[str, Any], shape: tuple[int, int, bool]) -> None:
        missing = [name for name in ("sbatch", "squeue", "scancel", "srun") if shutil.which(name) is None]
        if missing:
            raise CommandError(
                f"--launcher slurm: {', '.join(missing)} not found: this machine has no SLURM. Run it where sbatch "
                "works, or take --launcher local."
            )
        if "time" not in given:
            raise UsageError(
                "--launcher slurm needs --slurm.time, the limit of one run (90 is minutes; 1-12:00:00): without it a "
                "cluster's default would cut runs short."
            )
        self._folder, self._parallel = folder, parallel
        self._parameters = _parameters(given, shape)
        self._submitit = _import_submitit()
        self._jobs: dict[str, tuple[Run, str]] = {}
        self._lost: dict[str, float] = {}
        self._deaf = False

    def submit(self, runs: Sequence[Run]) -> None:
        """Submit runs, save those whose job of an earlier call is still there.

        Raises:
            CommandError: when SLURM refuses.
        """
        alive = self._alive() or {}
        for run in runs:
            job = str(read_json(run.folder / JOB).get("job", ""))
            if job in alive and read_json(run.folder / JOB).get("digest") == run.digest:
                self._jobs[job] = (run, job)
        if self._jobs:
            note(f"{len(self._jobs)} runs of an earlier call are still in the queue; they are waited for")
        adopted = {run.folder for run, _ in self._jobs.values()}
        fresh = [run for run in runs if run.folder not in adopted]
        if not fresh:
            return
        for run in fresh:
            prepare(run)
            (run.folder / JOB).unlink(missing_ok=True)
            set_status(run.folder, State.QUEUED)
        for run, job in zip(fresh, self._send(fresh), strict=True):
            write_json(run.folder / JOB, {"job": job, "digest": run.digest})
            self._jobs[job] = (run, job)

    def _send(self, runs: list[Run]) -> list[str]:
        executor = self._submitit.SlurmExecutor(folder=self._folder / "%j")
        executor.update_parameters(**self._parameters, array_parallelism=self._parallel)
        try:
            jobs = executor.map_array(run_cell, [as_plain(run) for run in runs])
        except Exception as error:  # submitit wraps what sbatch said in its own exception
            raise CommandError(f"SLURM did not take the array: {' '.join(str(error).split())}") from error
        found = [str(job.job_id) for job in jobs]
        note(f"submitted {len(found)} runs as job {found[0].split('_')[0]}, {self._parallel} at a time")
        return found

    def poll(self) -> bool:
        """Note runs whose job is gone without a word, and tell whether anything is left to wait for."""
        alive = self._alive()
        if alive is None:
            return bool(self._jobs)
        for job, (run, _) in list(self._jobs.items()):
            word = str(read_json(run.folder / "status.json").get("state"))
            if job in alive:
                if alive[job] == "PENDING" and word != State.QUEUED.value:
                    set_status(run.folder, State.QUEUED, reason="requeued")
                self._lost.pop(job, None)
            elif results_of(run) or word == State.FAILED.value:
                del self._jobs[job]
            elif time.monotonic() - self._lost.setdefault(job, time.monotonic()) > _LOST_AFTER:
                reason = f"job {job} is gone without a word: out of time or memory, cancelled, or its node failed"
                set_status(run.folder, State.FAILED, reason=reason)
                del self._jobs[job]
        return bool(self._jobs)

    def stop(self) -> None:
        """Cancel the jobs, so that the runs may be submitted again."""
        if self._jobs:
            _client("scancel", *self._jobs)
        for run, _ in self._jobs.values():
            if not results_of(run):
                set_status(run.folder, State.WAITING, reason="interrupted")
        self._jobs = {}

    def _alive(self) -> dict[str, str] | None:
        """State of every job of this user by its id; ``None`` while the controller does not answer."""
        asked = _client("squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i %T %j")
        if asked is None:
            if not self._deaf:
                note("squeue does not answer; asking again and again")
            self._deaf = True
            return None
        self._deaf = False
        lines = (line.split(maxsplit=2) for line in asked.splitlines())
        return {line[0]: line[1] for line in lines if line[2:] == [_NAME]}


def _parameters(given: dict[str, Any], shape: tuple[int, int, bool]) -> dict[str, Any]:
    nodes, tasks, gpus = shape
    known = {name: value for name, value in given.items() if name not in ("time", *_ELSEWHERE)}
    if gpus:
        known.setdefault("gpus_per_node", tasks)
    for name in ("gpus_per_node", "cpus_per_task"):
        if name in known:
            known[name] = _number(name, known[name])
    # since SLURM 22.05 srun does not take the cores of a task from sbatch
    cores = [f"--cpus-per-task={known['cpus_per_task']}"] if "cpus_per_task" in known else []
    return {
        **known,
        "job_name": _NAME,
        "time": minutes(given["time"], "--slurm.time"),
        "nodes": nodes,
        "ntasks_per_node": tasks,
        "srun_args": cores,
        "additional_parameters": {name: given[name] for name in _ELSEWHERE if name in given},
    }


def _number(name: str, value: Any) -> int:
    if not str(value).isdigit():
        raise UsageError(f"--slurm.{name} must be a whole number, got {value!r}.")
    return int(value)


def _import_submitit() -> Any:
    # the signal before the time limit; runs answer to this one
    os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    try:
        import submitit
    except ImportError as error:
        raise CommandError(
            "--launcher slurm needs submitit, which is not installed: pip install 'coprs_lightning[slurm]'"
        ) from error
    return submitit


def _client(*words: str) -> str | None:
    """Output of a SLURM command; ``None`` where it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None
