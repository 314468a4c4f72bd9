"""Hands a script to sbatch."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from coprs_lightning.cli_errors import note
from coprs_lightning.commands import CommandError


@dataclass(frozen=True)
class Submitted:
    """A job in the queue.

    Attributes:
        number: of the job.
        script: what was handed over, kept.
        log: where the job writes.
        run: folder of the run.
    """

    number: str
    script: Path
    log: Path
    run: Path


def check_slurm() -> None:
    """Raise where no job can be submitted.

    Raises:
        CommandError: without sbatch.
    """
    if shutil.which("sbatch") is None:
        raise CommandError(
            "sbatch is not found: this machine has no SLURM. Run it on the cluster's login node, or look at the "
            "script with --dry-run."
        )


def submit(script: str, output: Path, name: str) -> Submitted:
    """Queue a script, and keep it beside the run.

    Raises:
        CommandError: when the folder cannot be written to, or SLURM refuses the job, with its words.
    """
    draft = output / f".{name}-{os.getpid()}.sbatch"  # another one may be submitting the same config
    try:
        output.mkdir(parents=True, exist_ok=True)
        draft.write_text(script, encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"--output {output} cannot hold the job's script, log and run: {error}. Nothing was queued; name a folder "
            "that you may write to, and that every node sees."
        ) from error
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(draft)], capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"sbatch gave no answer within 120 s; the script is {draft}. Look at squeue.") from error
    said = " ".join(done.stderr.split())
    if done.returncode:
        refused = draft.rename(output / f"{name}-refused.sbatch")
        raise CommandError(f"sbatch refused the job: {said}. The script is {refused}.")
    if said:
        note(f"sbatch says: {said}")
    number = done.stdout.strip().split(";")[0]
    kept = draft.rename(output / f"{name}-{number}.sbatch")
    return Submitted(number, kept, output / f"{name}-{number}.log", output / f"{name}-{number}")
