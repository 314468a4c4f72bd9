"""The folder of a run: its loggers, its config, its checkpoints; nothing of two runs gets mixed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from coprs_lightning.cli_errors import note
from coprs_lightning.cli_resume import AUTO, newest_attempt
from coprs_lightning.commands import CommandError


def default_root(command: str) -> str:
    """Folder of a run that was given none: ``runs/fit``, or ``runs/slurm-JOB`` under SLURM, equal on all ranks."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"runs/slurm-{job}" if job else f"runs/{command}"


def default_loggers(root: str) -> list[Logger]:
    """TensorBoard and CSV, both in ``<root>/logs/version_N``; every start of a run gets the next N."""
    found = (re.fullmatch(r"version_(\d+)", path.name) for path in Path(root, "logs").glob("*"))
    versions = [int(match[1]) for match in found if match]
    version = max(versions, default=-1) + 1
    return [TensorBoardLogger(root, name="logs", version=version), CSVLogger(root, name="logs", version=version)]


def without_requeueing(plugins: Any) -> Any:
    """The trainer's plugins, such that Lightning does not requeue SLURM jobs by itself.

    It saves inside a signal handler, which may deadlock and which loader workers inherit.
    :class:`callbacks.requeue.Requeue` does it instead.
    """
    given = [] if plugins is None else list(plugins) if isinstance(plugins, list | tuple) else [plugins]
    for plugin in given:
        if isinstance(plugin, SLURMEnvironment):
            plugin.auto_requeue = False
    own = any(isinstance(plugin, ClusterEnvironment) for plugin in given)
    if own or "SLURM_JOB_ID" not in os.environ or TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return plugins
    return [*given, SLURMEnvironment(auto_requeue=False)]


class RunFolder(SaveConfigCallback):
    """Keeps one attempt of a run apart from the next.

    The first ``fit`` in a folder writes ``config.yaml`` and ``checkpoints/``. Another fresh ``fit`` in the same folder
    writes ``config-2.yaml`` and ``checkpoints-2/`` and says so. A resumed one goes on in the folder that its checkpoint
    is in, and writes a numbered config only where the config changed. ``validate``, ``test`` and ``predict`` write
    ``config-validate.yaml`` and so on.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose names on rank 0, tell the other ranks, and write the config."""
        if self.already_saved or getattr(trainer, "fast_dev_run", False):
            return
        root, command = Path(trainer.default_root_dir), str(trainer.state.fn.value)  # type: ignore[union-attr]
        names = ("", "")
        if trainer.is_global_zero:
            names = self._names(root, command)
        config_name, folder = trainer.strategy.broadcast(names)
        _check_same_checkpoint(trainer, self.config.get("ckpt_path"))
        checkpoint = trainer.checkpoint_callback
        if command == "fit" and isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath is None:
            checkpoint.dirpath = str((root / folder).absolute())
        if trainer.is_global_zero and config_name:
            root.mkdir(parents=True, exist_ok=True)
            (root / config_name).write_text(self._text(), encoding="utf-8")
        self.already_saved = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Without validation there is no best checkpoint: keep the last one instead of failing at the first save."""
        checkpoint = trainer.checkpoint_callback
        if not isinstance(checkpoint, ModelCheckpoint) or not (checkpoint.monitor or "").startswith("val/"):
            return
        batches = trainer.num_val_batches
        if not (sum(batches) if isinstance(batches, list) else batches):
            note(f"no validation, so no {checkpoint.monitor}: the newest checkpoint is kept instead of the best")
            checkpoint.monitor = None
            checkpoint.filename = "step={step}"

    def _text(self) -> str:
        config = self.config.clone()
        config.pop("resume", None)  # of this start, not of the run; and only `fit` knows it
        return str(self.parser.dump(config, skip_none=False))

    def _names(self, root: Path, command: str) -> tuple[str, str]:
        """File name of the config (``""`` for none) and folder name of the checkpoints."""
        if command != "fit":
            return self._config_name(root, f"config-{command}"), ""
        resumed = self._resumed_from(root)
        if resumed is not None:
            name = self._config_name(root, "config")
            if name not in ("", "config.yaml"):
                note(f"{root}: the config differs from the one there; it is written to {name}")
            return name, resumed
        number = _next_attempt(root)
        if number == 1:
            return "config.yaml", "checkpoints"
        if self.config.get("resume") == AUTO and newest_attempt(root) is None:  # it has ended before its first save
            return self._config_name(root, "config"), "checkpoints"
        note(f"{root} already holds a run; this one writes config-{number}.yaml and checkpoints-{number}/ there")
        return f"config-{number}.yaml", f"checkpoints-{number}"

    def _resumed_from(self, root: Path) -> str | None:
        """Name of the checkpoints' folder that this run goes on in, or ``None`` for a fresh run."""
        path = self.config.get("ckpt_path")
        if path and Path(path).exists() and Path(path).resolve().parent.parent == root.resolve():
            return Path(path).resolve().parent.name
        requeued = "SLURM_JOB_ID" in os.environ and any(root.glob("hpc_ckpt_*.ckpt"))
        if requeued or path in ("last", "hpc"):  # Lightning finds the file itself
            latest = _next_attempt(root) - 1
            return "checkpoints" if latest < 2 else f"checkpoints-{latest}"
        return None

    def _config_name(self, root: Path, stem: str) -> str:
        """The first name whose file is absent, or ``""`` where one with equal content is there."""
        wanted = _comparable(self._text())
        number = 1
        while (file := root / (f"{stem}.yaml" if number == 1 else f"{stem}-{number}.yaml")).exists():
            if _comparable(file.read_text(encoding="utf-8")) == wanted:
                return ""
            number += 1
        return file.name


def _check_same_checkpoint(trainer: pl.Trainer, own: Any) -> None:
    """Refuse that processes start from different checkpoints.

    Raises:
        CommandError: on a process that found another one than the first process did.
    """
    first = trainer.strategy.broadcast(own)
    if first != own:
        raise CommandError(
            f"the first process goes on from {first}, this one from {own}: its node sees other files in the run's "
            "folder. The folder must be on a file system that all nodes share; some show new files late: submit again."
        )


def _next_attempt(root: Path) -> int:
    """1 + the highest number among ``config[-N].yaml`` and ``checkpoints[-N]``; 1 in a folder without any."""
    highest = 0
    for file in root.glob("*") if root.is_dir() else ():
        match = re.fullmatch(r"(?:config|checkpoints)(?:-(\d+))?(?:\.yaml)?", file.name)
        if match:
            highest = max(highest, int(match.group(1) or 1))
    return highest + 1


def _comparable(text: str) -> dict[str, Any]:
    """Content of a saved config without what a resumed run may differ in."""
    content: dict[str, Any] = yaml.safe_load(text) or {}
    return {key: value for key, value in content.items() if key != "ckpt_path"}
