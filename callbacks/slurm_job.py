"""The SLURM job that this process belongs to."""

from __future__ import annotations

import os
import subprocess

_SECONDS = 30


def job_id() -> str | None:
    """Number of the job, ``ARRAY_TASK`` in a job array; ``None`` outside SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
    return os.environ.get("SLURM_JOB_ID") or None


def requeue(job: str) -> str:
    """Put a job back into the queue: SLURM ends it and starts it anew when there is room.

    Returns:
        why that failed; ``""`` where it worked.
    """
    if _state(job) == "CANCELLED":
        return "it was cancelled"
    return _scontrol("requeue", job)[1]


def _state(job: str) -> str:
    words = dict(word.split("=", 1) for word in _scontrol("show", "job", "-o", job)[0].split() if "=" in word)
    return words.get("JobState", "")


def _scontrol(*words: str) -> tuple[str, str]:
    """Output, and the cause of a failure."""
    try:
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return "", f"scontrol cannot be run here: {error}"
    if done.returncode == 0:
        return done.stdout, ""
    return done.stdout, " ".join(done.stderr.split()) or f"scontrol ended with status {done.returncode}"
