"""`coprs fit --resume auto`: the newest whole checkpoint of the run's own folder, or a fresh start."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from coprs_lightning.checkpoints.run_folder import read_header
from coprs_lightning.cli_errors import note
from coprs_lightning.commands import CommandError, UsageError

AUTO = "auto"
NONE = "none"
_LOOKED_AT = 4  # preempted, last, best and one more: reading the headers of hundreds would take minutes


class _Candidate(NamedTuple):
    step: int
    modified: float
    path: Path


def wanted(resume: Any) -> bool:
    """Whether the run goes on by itself.

    Args:
        resume: what was given; without it a job that SLURM has requeued goes on.

    Raises:
        UsageError: for anything but ``auto`` and ``none``.
    """
    if resume is None and os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0"):
        note("SLURM has requeued this job, so it goes on where it was (as with --resume auto)")
        return True
    if resume not in (None, AUTO, NONE):
        raise UsageError(
            f"--resume {resume}: takes auto (the newest checkpoint of the run's own folder, if there is one) or none. "
            f"To go on from a checkpoint of your choice: --ckpt_path {resume}"
        )
    return bool(resume == AUTO)


def newest_checkpoint(root: Path, folder: Path | None = None) -> Path | None:
    """The checkpoint that a run in ``root`` goes on from, told on stderr; ``None`` for a fresh start.

    Of the newest attempt in the folder the checkpoint with the most steps counts, by whatever name. What is not whole
    is skipped and named.

    Args:
        root: the run's folder.
        folder: where its checkpoints are, if not in ``root/checkpoints``.
    """
    folder = folder or newest_attempt(root)
    if folder is None or not folder.is_dir():
        note(f"--resume auto: {root} holds no checkpoint, so this run starts from its beginning")
        return None
    for left in sorted([*folder.glob(".*.ckpt.tmp"), *folder.glob(".*.part")]):
        note(f"--resume auto: {left} is skipped: the run ended while it wrote it")
    found: list[_Candidate] = []
    for path in sorted(folder.glob("*.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            found.append(_Candidate(int(read_header(path)["global_step"]), path.stat().st_mtime, path))
        except CommandError as error:
            note(f"--resume auto: {path} is skipped: {error}")
        if len(found) == _LOOKED_AT:
            break
    if not found:
        note(f"--resume auto: {folder} holds no whole checkpoint, so this run starts from its beginning")
        return None
    newest = max(found)
    note(f"--resume auto: going on from step {newest.step}, {newest.path}")
    return newest.path


def newest_attempt(root: Path) -> Path | None:
    """The folder of checkpoints with the highest number; ``None`` where the run has saved none."""
    numbered = {}
    for path in root.glob("checkpoints*") if root.is_dir() else ():
        match = re.fullmatch(r"checkpoints(?:-(\d+))?", path.name)
        if match and any(path.glob("*.ckpt")):
            numbered[int(match[1] or 1)] = path
    return numbered[max(numbered)] if numbered else None
