"""Checkpoints that `coprs fit` wrote: finding the right one in a run's folder, reading it as plain data."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from coprs_lightning.checkpoints.sharded import is_sharded_checkpoint, read_rest, read_sharded
from coprs_lightning.commands import CommandError

SPEC_KEY = "coprs_spec"
"""What the module was built from, as the run was configured."""

PORTABLE_KEY = "coprs_portable"
"""What rebuilds the model where the sources of its pretrained parts are not at hand."""


_LAST = ("last", "preempted")


@dataclass(frozen=True)
class Found:
    """A checkpoint file.

    Attributes:
        path: the file.
        kind: how it was chosen (``best``, ``last``, ``preempted``, ``newest``), ``""`` where the user named the file
            itself.
    """

    path: Path
    kind: str = ""


def find_checkpoint(path: str | Path, *, prefer: str = "best") -> Found:
    """The checkpoint file that a path means.

    Args:
        path: a checkpoint file; or the folder of a run, or of its checkpoints.
        prefer: ``best`` (by the run's monitored metric) or ``last``, for folders.

    Raises:
        CommandError: where there is none.
    """
    given = Path(path)
    if given.is_file() or is_sharded_checkpoint(given):
        return Found(given)
    if not given.is_dir():
        raise CommandError(f"there is no checkpoint {given}. Give a .ckpt file, or the folder of a run of `coprs fit`.")
    _refuse_deepspeed(given)
    folder = _newest_attempt(given)
    files = sorted(folder.glob("*.ckpt"), key=lambda file: file.stat().st_mtime) if folder else []
    if not files:
        raise CommandError(
            f"{given} holds no checkpoint (looked for checkpoints/*.ckpt). Give the folder of a run of `coprs fit` "
            "that has saved one, or a .ckpt file."
        )
    last = [file for file in files if file.stem.split("-v")[0] in _LAST]
    newest = Found(last[-1], last[-1].stem.split("-v")[0]) if last else Found(files[-1], "newest")
    _refuse_deepspeed(newest.path)
    if prefer == "best":
        best = _best(newest.path)
        if best is not None:
            return Found(best, "best")
    return newest


def run_checkpoints(path: str | Path) -> list[Path]:
    """Every checkpoint file of a run's newest attempt, by name.

    Args:
        path: the folder of a run, or of its checkpoints.

    Raises:
        CommandError: where there is none.
    """
    newest = find_checkpoint(path, prefer="last").path
    return sorted(newest.parent.glob("*.ckpt")) if Path(path).is_dir() else [newest]


def _refuse_deepspeed(path: Path) -> None:
    if (path / "zero_to_fp32.py").is_file() or any(path.glob("checkpoint/mp_rank_*")):
        raise CommandError(
            f"{path} is a checkpoint of DeepSpeed: a folder with the pieces of every process, which only a run with "
            "the same strategy reads. Make one file of it with `from lightning.pytorch.utilities.deepspeed import "
            "convert_zero_checkpoint_to_fp32_state_dict`, and give that file."
        )


def _newest_attempt(folder: Path) -> Path | None:
    """The folder itself where it holds checkpoints, else the ``checkpoints`` folder last written in."""
    if any(folder.glob("*.ckpt")):
        return folder
    attempts = [inner for inner in folder.glob("checkpoints*") if any(inner.glob("*.ckpt"))]
    return max(attempts, key=lambda inner: max(f.stat().st_mtime for f in inner.glob("*.ckpt")), default=None)


def _best(newest: Path) -> Path | None:
    """The best checkpoint by the newest one's record; by file name, since runs get moved."""
    for name, state in read_header(newest).get("callbacks", {}).items():
        if name.startswith(("BestAndLast", "ModelCheckpoint")) and state.get("best_model_path"):
            best = newest.with_name(Path(state["best_model_path"]).name)
            if best.exists():
                return best
    return None


def read_header(path: Path) -> dict[str, Any]:
    """What a checkpoint says about itself; its tensors stay on disk.

    Raises:
        CommandError: for a file that is no checkpoint of this project, or that holds more than data.
    """
    if is_sharded_checkpoint(path):
        return _own(read_rest(path), path)
    if not zipfile.is_zipfile(path):
        raise CommandError(f"{path} is no checkpoint, or a truncated one. Give a .ckpt file written by `coprs fit`.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CommandError(
            f"{path} cannot be read as a checkpoint (damaged, of another program, or it holds code): "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    return _own(content, path)


def read_weights_of(path: Path) -> dict[str, Any]:
    """As :func:`read_header`, with the weights under ``state_dict``: those of a sharded checkpoint put together."""
    return read_sharded(path) if is_sharded_checkpoint(path) else read_header(path)


def _own(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict) or SPEC_KEY not in content:
        raise CommandError(f"{path} is no coprs checkpoint: it has no {SPEC_KEY!r}. It was written by another program.")
    return content
