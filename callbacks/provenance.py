"""What produced a run: code, versions, command, data and machine, in one file beside its logs."""

from __future__ import annotations

import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

import coprs_lightning
from callbacks.files import write_json

if TYPE_CHECKING:
    import lightning.pytorch as pl

PACKAGES = ("torch", "torchvision", "lightning", "transformers", "timm", "torchmetrics", "webdataset", "numpy")
INDEX_NAME = "index.json"


class Provenance(Callback):
    """Writes ``<log_dir>/provenance.json`` when a run starts, and its end when it ends.

    The file names the versions, the git commit (and whether files were changed), the command line, the seed, the
    machine, the dataset splits with the sha256 of their ``index.json``, and the parameters of every part. ``status`` is
    ``running``, ``finished``, ``interrupted`` or ``failed`` (with ``error``); a run that was killed stays ``running``.
    Earlier runs in the same folder are kept under ``earlier``. Nothing is written under ``fast_dev_run``.

    Args:
        filename: name of the file in the logger's folder (``trainer.default_root_dir`` without a logger).
    """

    def __init__(self, *, filename: str = "provenance.json") -> None:
        self.filename = filename
        self._path = Path(filename)
        self._record: dict[str, Any] = {}
        self._earlier: list[dict[str, Any]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Collect what is known before the model is on its device, and write it."""
        # every process has to ask for the folder, though only the first one writes
        self._path = Path(trainer.log_dir or trainer.default_root_dir) / self.filename
        self._earlier = _earlier_runs(self._path) if trainer.is_global_zero else []
        self._record = {
            "stage": stage,
            "status": "running",
            "start": _now(),
            "end": None,
            "error": None,
            "command": shlex.join(sys.argv),
            "seed": _seed(),
            "versions": package_versions(),
            "git": git_revision(),
            "machine": _machine(trainer),
            "data": _splits(trainer),
            "parameters": {},
        }
        self._write(trainer)

    def _started(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._record["parameters"] = parameter_counts(pl_module)
        self._write(trainer)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the parameter counts, now that the model is configured."""
        self._started(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the parameter counts, unless a fit did."""
        if trainer.state.fn == "validate":
            self._started(trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the parameter counts."""
        self._started(trainer, pl_module)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the parameter counts."""
        self._started(trainer, pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The run ended by itself."""
        self._end(trainer, "finished", None)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The run ended by an exception."""
        stopped = isinstance(exception, KeyboardInterrupt | SystemExit)  # by a person or a signal
        status = "interrupted" if stopped else "failed"
        self._end(trainer, status, f"{type(exception).__name__}: {exception}")

    def _end(self, trainer: pl.Trainer, status: str, error: str | None) -> None:
        if self._record:  # empty when the run failed before setup
            self._record |= {"status": status, "end": _now(), "error": error}
            self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            write_json(self._path, {**self._record, "earlier": self._earlier})


def parameter_counts(pl_module: pl.LightningModule) -> dict[str, dict[str, int]]:
    """Parameters of every part of the module, and of its ``model`` where it has one.

    Returns:
        ``{part: {"total": …, "trainable": …}}``, the sum under ``"total"``.
    """
    parts = dict(pl_module.named_children())
    model = parts.pop("model", None)
    if model is not None:
        parts = {**dict(model.named_children()), **parts}
    return {name: _count(part) for name, part in parts.items()} | {"total": _count(pl_module)}


def _count(module: torch.nn.Module) -> dict[str, int]:
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return {"total": sum(n for n, _ in sizes), "trainable": sum(n for n, trained in sizes if trained)}


def _earlier_runs(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if not isinstance(content, dict):
        return []
    earlier = content.pop("earlier", [])
    return [*(earlier if isinstance(earlier, list) else []), content]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _seed() -> int | None:
    seed = os.environ.get("PL_GLOBAL_SEED")
    return None if seed is None else int(seed)


def package_versions() -> dict[str, str | None]:
    """Versions of this package, Python and the libraries that numbers depend on; ``None`` where one is missing."""
    versions: dict[str, str | None] = {
        "coprs_lightning": coprs_lightning.__version__,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
    }
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_revision() -> dict[str, Any] | None:
    """Commit of the checkout that the package runs from; ``None`` where it is installed, or git is missing."""
    checkout = Path(coprs_lightning.__file__).resolve().parents[1]

    def ask(*words: str) -> str:
        command = ["git", "-C", str(checkout), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()

    try:
        if Path(ask("rev-parse", "--show-toplevel")).resolve() != checkout:
            return None  # the package lies inside somebody else's repository
        changed = bool(ask("status", "--porcelain", "--untracked-files=no"))
        return {"commit": ask("rev-parse", "HEAD"), "dirty": changed}
    except (OSError, subprocess.SubprocessError):
        return None


def _machine(trainer: pl.Trainer) -> dict[str, Any]:
    device = trainer.strategy.root_device
    return {
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "world_size": trainer.world_size,
        "nodes": trainer.num_nodes,
        "strategy": type(trainer.strategy).__name__,
        "precision": str(trainer.precision),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def _splits(trainer: pl.Trainer) -> dict[str, list[dict[str, str]]]:
    """Folder, name and checksum of every split, from a datamodule that tells its ``split_records``."""
    records: dict[str, list[dict[str, str]]] = getattr(getattr(trainer, "datamodule", None), "split_records", {})
    return {split: listed for split, listed in records.items() if listed}
