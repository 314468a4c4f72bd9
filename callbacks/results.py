"""The numbers of a run in one small file, for tables and scripts."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from callbacks.files import write_json

if TYPE_CHECKING:
    import lightning.pytorch as pl


class ResultsWriter(Callback):
    """Writes the last validation's (or test's) metrics, how long training took and where the best checkpoint is.

    After ``fit``: every ``val/…`` metric without its prefix (``giou``, ``ciou``, ``heatmap_giou``, ``format_rate``,
    ``n`` …), ``by_kind`` (gIoU by kind of question), ``fit_seconds`` (training and validation; a resumed run adds to
    what its checkpoint had), ``global_step``, ``max_steps``, ``epoch``, ``seed``, ``monitor``, ``best_score`` and
    ``best_checkpoint``. After ``validate`` and ``test``: the metrics, ``global_step`` and ``seed``. ``stage`` says
    which it was. Numbers that are not finite become ``null``. Nothing is written under ``fast_dev_run``.

    Args:
        path: the file, relative to ``trainer.default_root_dir``. ``{stage}`` in it is replaced by ``fit``, ``validate``
            or ``test``; without it, each of them overwrites the file of the one before.
    """

    def __init__(self, *, path: str = "results.json") -> None:
        self.path = path
        self._metrics: dict[str, float] = {}
        self._seconds_before = 0.0
        self._started = 0.0

    @property
    def state_key(self) -> str:
        """Lets several writers with different files work in one run."""
        return self._generate_state_key(path=self.path)

    def state_dict(self) -> dict[str, Any]:
        """Seconds of training so far."""
        return {"fit_seconds": self._fit_seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting seconds."""
        self._seconds_before = float(state_dict["fit_seconds"])

    def _fit_seconds(self) -> float:
        return self._seconds_before + (time.monotonic() - self._started if self._started else 0.0)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the metrics of an earlier call, and its seconds if a new fit begins."""
        self._metrics = {}
        self._started = 0.0
        if stage == "fit":
            self._seconds_before = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the metrics of this validation."""
        self._keep(trainer, "val/")
        if trainer.state.fn == "validate":
            self._write(trainer, {})

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the metrics of the test and write them."""
        self._keep(trainer, "test/")
        self._write(trainer, {})

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write metrics, time and checkpoint."""
        checkpoints = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        best = next((c for c in checkpoints if c.monitor), None)
        score = None if best is None or best.best_model_score is None else float(best.best_model_score)
        fit = {
            "fit_seconds": self._fit_seconds(),
            "max_steps": trainer.max_steps,
            "epoch": trainer.current_epoch,
            "monitor": None if best is None else best.monitor,
            "best_score": score,
            "best_checkpoint": None if best is None else best.best_model_path or None,
        }
        self._write(trainer, fit)
        self._started = 0.0

    def _keep(self, trainer: pl.Trainer, prefix: str) -> None:
        if trainer.sanity_checking:
            return
        # all processes read: reading may finish a reduction that waits for every process
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._metrics = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}

    def _write(self, trainer: pl.Trainer, fit: dict[str, Any]) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        stage = str(trainer.state.fn.value) if trainer.state.fn is not None else ""
        seed = os.environ.get("PL_GLOBAL_SEED")
        content = {
            "stage": stage,
            **{name: value for name, value in self._metrics.items() if not name.startswith("giou/")},
            "by_kind": {n.removeprefix("giou/"): v for n, v in self._metrics.items() if n.startswith("giou/")},
            "global_step": trainer.global_step,
            "seed": None if seed is None else int(seed),
            **fit,
        }
        if "n" in content:
            content["n"] = int(content["n"])
        write_json(Path(trainer.default_root_dir) / self.path.replace("{stage}", stage), content)
