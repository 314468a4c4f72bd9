"""What a user sees of an error: a message for mistakes, a traceback for bugs."""

from __future__ import annotations

import linecache
import os
import sys
from pathlib import Path

from coprs_lightning.commands import CommandError, UsageError

DEBUG_ENV = "COPRS_DEBUG"

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = tuple(str(_ROOT / name) + os.sep for name in ("coprs_lightning", "datamodules", "callbacks"))


def debugging() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get(DEBUG_ENV, "") not in ("", "0", "false")


def is_message(error: BaseException) -> bool:
    """Whether ``error`` was written for the user.

    That is a :class:`CommandError`, and whatever a ``raise`` statement of this project raised on purpose. What Python
    or a library raised is a bug until somebody has looked at it, so it keeps its traceback.
    """
    if isinstance(error, CommandError):
        return True
    trace = error.__traceback__
    if trace is None or not isinstance(error, Exception):
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename
    line = linecache.getline(file, trace.tb_lineno).strip()
    return str(Path(file).resolve()).startswith(_PACKAGES) and line.startswith("raise ")


def fail(error: Exception) -> None:
    """Print a user's error and exit.

    Raises:
        SystemExit: with the error's exit status (2 when nothing was run, else 1).
    """
    text = str(error) or type(error).__name__
    sys.stderr.write(f"coprs: error: {text}\n")
    if not isinstance(error, UsageError):
        sys.stderr.write(f"  (set {DEBUG_ENV}=1 or add --debug for the traceback)\n")
    raise SystemExit(getattr(error, "exit_status", 1))


def note(text: str) -> None:
    """Tell the user something on stderr, once a run: only the process of rank 0 speaks."""
    if rank() == 0:
        sys.stderr.write(f"coprs: {text}\n")
        sys.stderr.flush()


def rank() -> int:
    """Rank of this process by its launcher's environment; 0 outside a distributed run."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        value = os.environ.get(name, "")
        if value.isdigit():
            return int(value)
    return 0
