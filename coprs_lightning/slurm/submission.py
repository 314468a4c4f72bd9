"""Hands a script to sbatch."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

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
        CommandError: when SLURM refuses it, with its words.
    """
    output.mkdir(parents=True, exist_ok=True)
    draft = output / f".{name}.sbatch"
    draft.write_text(script, encoding="utf-8")
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(draft)], capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"sbatch gave no answer within 120 s; the script is {draft}. Look at squeue.") from error
    if done.returncode:
        raise CommandError(f"sbatch refused the job: {' '.join(done.stderr.split())}. The script is {draft}.")
    number = done.stdout.strip().split(";")[0]
    kept = draft.rename(output / f"{name}-{number}.sbatch")
    return Submitted(number, kept, output / f"{name}-{number}.log", output / f"{name}-{number}")
