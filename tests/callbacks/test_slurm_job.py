"""The job of this process; requeueing itself is in tests/integration/test_preemption.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from callbacks.slurm_job import job_id, requeue


def test_jobs_and_tasks_of_arrays_have_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert job_id() is None
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert job_id() == "12"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "11")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert job_id() == "11_3"


def test_failures_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert requeue("12").startswith("scontrol cannot be run here: ")
    program = tmp_path / "scontrol"
    program.write_text(
        '#!/bin/sh\n[ "$1" = show ] && echo "JobId=12 JobState=RUNNING" && exit 0\necho no >&2; exit 3\n'
    )
    program.chmod(0o755)
    assert requeue("12") == "no"
    program.write_text('#!/bin/sh\necho "JobId=12 JobState=CANCELLED"\n')
    assert requeue("12") == "it was cancelled"
