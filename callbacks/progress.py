"""Progress for people at a terminal and for log files (SLURM, CI), where a redrawn bar leaves nothing to read."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor

if TYPE_CHECKING:
    import lightning.pytorch as pl


class _Mark(NamedTuple):
    """A moment of training."""

    step: int
    seconds: float


class CoprsProgressBar(RichProgressBar):
    """A bar with loss and scores at a terminal; elsewhere one plain line every few steps.

    Lines of training show step, loss, steps a second (validation left out) and the time that is left (validation
    included); lines of validation and test show the batch, and at the end the scores.

    Args:
        every_n_steps: training steps (validation batches) between two lines. Without effect at a terminal.
        shown: scores in the line after validation and test; the bar shows the first.
        refresh_rate: redraws of the bar a second. 0 switches bar and lines off.
        leave: keep the finished bars of earlier epochs on the screen.

    Raises:
        ValueError: for ``every_n_steps`` below 1.
    """

    def __init__(
        self,
        *,
        every_n_steps: int = 50,
        shown: tuple[str, ...] = ("giou", "ciou", "heatmap_giou", "format_rate", "n"),
        refresh_rate: int = 10,
        leave: bool = False,
    ) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=leave)
        if every_n_steps < 1:
            raise ValueError(f"CoprsProgressBar.every_n_steps must be ≥ 1, got {every_n_steps}.")
        self.every_n_steps = every_n_steps
        self.shown = shown
        self._lines = False
        self._begin = _Mark(0, 0.0)
        self._last = _Mark(0, 0.0)
        self._evaluating_since = 0.0
        self._last_loss = math.nan
        self._last_scores: dict[str, float] = {}

    # -- which of the two --------------------------------------------------------------------------------------------

    @property
    def is_enabled(self) -> bool:
        """Whether the bar is drawn."""
        return super().is_enabled and not self._lines

    @property
    def prints_lines(self) -> bool:
        """Whether lines are printed, on this process."""
        return super().is_enabled and self._lines

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose bar or lines; only the first process shows anything."""
        self._lines = not sys.stdout.isatty()
        super().setup(trainer, pl_module, stage)

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What the bar shows: the usual, the loss and the first score of the last validation."""
        metrics = dict(super().get_metrics(trainer, pl_module))
        metrics.setdefault("loss", self._last_loss)
        return {**{f"val/{name}": value for name, value in [*self._last_scores.items()][:1]}, **metrics}

    # -- training ----------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._begin = self._last = _Mark(trainer.global_step, time.monotonic())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar, or print a line when one is due."""
        step = trainer.global_step
        due = step > self._last.step and (step % self.every_n_steps == 0 or step == self._begin.step + 1)
        if self.is_enabled or (self.prints_lines and due):
            self._last_loss = _loss(outputs)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.prints_lines and due:
            now = time.monotonic()
            rate = (step - self._last.step) / max(now - self._last.seconds, 1e-9)
            total, left = trainer.estimated_stepping_batches, ""
            if math.isfinite(total) and step > self._begin.step:
                seconds = (now - self._begin.seconds) / (step - self._begin.step) * (total - step)
                left = f" | {duration(seconds)} left"
            of = f"/{total}" if math.isfinite(total) else ""
            _print(
                f"step {step}{of} | epoch {trainer.current_epoch} | loss {self._last_loss:.4f} | {rate:.2f} it/s{left}"
            )
            self._last = _Mark(step, now)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how long it took."""
        super().on_train_end(trainer, pl_module)
        if self.prints_lines:
            elapsed = duration(time.monotonic() - self._begin.seconds)
            _print(f"training ended at step {trainer.global_step} | took {elapsed}")

    # -- evaluation --------------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the validation."""
        super().on_validation_start(trainer, pl_module)
        self._evaluating_since = time.monotonic()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the test."""
        super().on_test_start(trainer, pl_module)
        self._evaluating_since = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Advance the bar, or print a line when one is due."""
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if not trainer.sanity_checking:
            self._evaluation_line("val", batch_idx, trainer.num_val_batches[dataloader_idx])

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Advance the bar, or print a line when one is due."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self._evaluation_line("test", batch_idx, trainer.num_test_batches[dataloader_idx])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the scores; the time of the validation is no training time."""
        super().on_validation_end(trainer, pl_module)
        self._last = _Mark(self._last.step, self._last.seconds + time.monotonic() - self._evaluating_since)
        if not trainer.sanity_checking:
            self._last_scores = self._show_scores(trainer, "val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the scores."""
        super().on_test_end(trainer, pl_module)
        self._show_scores(trainer, "test")

    def _evaluation_line(self, stage: str, batch_idx: int, batches: int | float) -> None:
        if self.prints_lines and (batch_idx + 1) % self.every_n_steps == 0:
            elapsed = time.monotonic() - self._evaluating_since
            _print(f"{stage} batch {batch_idx + 1}/{batches} | {duration(elapsed)}")

    def _show_scores(self, trainer: pl.Trainer, stage: str) -> dict[str, float]:
        metrics = trainer.callback_metrics  # read by every process: that may finish a reduction that waits for all
        scores = {name: float(metrics[f"{stage}/{name}"]) for name in self.shown if f"{stage}/{name}" in metrics}
        if self.prints_lines:
            parts = "".join(f" | {name} {value:.4g}" for name, value in scores.items())
            elapsed = duration(time.monotonic() - self._evaluating_since)
            _print(f"{stage} at step {trainer.global_step}{parts} | took {elapsed}")
        return scores


def duration(seconds: float) -> str:
    """``seconds`` as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _loss(outputs: Any) -> float:
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return float(loss.detach()) if isinstance(loss, Tensor) and loss.numel() == 1 else math.nan


def _print(line: str) -> None:
    print(line, flush=True)
