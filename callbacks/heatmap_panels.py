"""Pictures of what the model answers during validation and test (paper Figure 4)."""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.drawing import draw_panel, save_panel
from callbacks.step_outputs import check_step, original_logits
from coprs_lightning.metrics.iou import example_iou, intersection_and_union

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from coprs_lightning.structures import SegmentationBatch, SegmentationOutput


@dataclass
class _Answer:
    """What one panel shows, as arrays at the original resolution."""

    key: str
    image: np.ndarray
    heatmap: np.ndarray
    mask: np.ndarray
    truth: np.ndarray
    ignore: np.ndarray | None
    question: str
    completion: str
    iou: float
    num_tokens: int


class HeatmapPanels(Callback):
    """Draws image, heatmap, predicted mask and ground truth side by side, with the question and the thought below.

    Panels are written as PNG below ``<log_dir>/<folder>/val-step-<step>/`` and to TensorBoard where it is a logger.
    The first examples are the same in every validation, so that they can be compared over steps. Only the first process
    draws, from its own share of the examples. Nothing is drawn in the sanity check and under ``fast_dev_run``. A panel
    that cannot be drawn or written costs a warning, never the run.

    Args:
        num_examples: how many of the first examples are drawn.
        num_worst: how many of the examples with the lowest mask IoU are drawn too.
        every_n_epochs: draw in validations of every n-th training epoch only.
        folder: where to, relative to the logger's folder (or ``trainer.default_root_dir`` without one).

    Raises:
        ValueError: for a negative number, or ``every_n_epochs`` below 1.
    """

    def __init__(
        self, *, num_examples: int = 8, num_worst: int = 0, every_n_epochs: int = 1, folder: str = "panels"
    ) -> None:
        for name, value, least in (
            ("num_examples", num_examples, 0),
            ("num_worst", num_worst, 0),
            ("every_n_epochs", every_n_epochs, 1),
        ):
            if value < least:
                raise ValueError(f"HeatmapPanels.{name} must be ≥ {least}, got {value}.")
        self.num_examples = num_examples
        self.num_worst = num_worst
        self.every_n_epochs = every_n_epochs
        self.folder = folder
        self._root = Path(folder)
        self._seen = 0
        self._worst: list[tuple[float, int, _Answer]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the folder; every process has to ask for it, though only the first one draws."""
        self._root = Path(trainer.log_dir or trainer.default_root_dir) / self.folder

    def _draws(self, trainer: pl.Trainer) -> bool:
        if trainer.sanity_checking or trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return False
        return trainer.state.fn != "fit" or trainer.current_epoch % self.every_n_epochs == 0

    def _start(self) -> None:
        self._seen, self._worst = 0, []

    def _collect(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, stage: str
    ) -> None:
        if not self._draws(trainer):
            return
        output = check_step(outputs, pl_module)
        frame: int = pl_module.image_size  # type: ignore[assignment]
        for index in range(len(batch)):
            first = self._seen < self.num_examples
            if first or self.num_worst:
                answer = _answer(output, batch, index, frame)
                if first:
                    self._draw(trainer, answer, stage, f"{self._seen:02d}")
                if self.num_worst:
                    # worst last in the order of a heap whose smallest entry is the best of the worst
                    push = heapq.heappush if len(self._worst) < self.num_worst else heapq.heappushpop
                    push(self._worst, (-answer.iou, -self._seen, answer))
            self._seen += 1

    def _finish(self, trainer: pl.Trainer, stage: str) -> None:
        for rank, (_, _, answer) in enumerate(sorted(self._worst, key=lambda entry: entry[:2], reverse=True)):
            self._draw(trainer, answer, stage, f"worst-{rank:02d}")
        self._start()

    def _draw(self, trainer: pl.Trainer, answer: _Answer, stage: str, name: str) -> None:
        step = trainer.global_step
        key = re.sub(r"[^\w.-]+", "_", answer.key)[:80]
        try:
            figure = draw_panel(
                answer.image,
                answer.heatmap,
                answer.mask,
                answer.truth,
                answer.question,
                answer.completion,
                f"{answer.key} · step {step}",
                ignore=answer.ignore,
                num_tokens=answer.num_tokens,
            )
            pixels = save_panel(figure, self._root / f"{stage}-step-{step:06d}" / f"{name}-{key}.png")
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(f"{stage}/panels/{name}", pixels, step, dataformats="HWC")
        except Exception as error:
            rank_zero_warn(
                f"the panel of {answer.key} was not drawn ({type(error).__name__}: {error}); the run goes on."
            )

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting examples."""
        self._start()

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting examples."""
        self._start()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: SegmentationBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first examples, keep the worst."""
        self._collect(trainer, pl_module, outputs, batch, "val")

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: SegmentationBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first examples, keep the worst."""
        self._collect(trainer, pl_module, outputs, batch, "test")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the worst examples."""
        self._finish(trainer, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the worst examples."""
        self._finish(trainer, "test")


def _answer(output: SegmentationOutput, batch: SegmentationBatch, index: int, frame: int) -> _Answer:
    heatmap_logits, mask_logits = output.union()
    mask = original_logits(mask_logits, batch, index, frame) > 0
    truth, ignore = batch.original_masks[index], batch.original_ignores[index]
    intersection, union = intersection_and_union(mask, truth, ignore)
    return _Answer(
        key=batch.keys[index],
        image=batch.images[index].permute(1, 2, 0).cpu().numpy(),
        heatmap=original_logits(heatmap_logits, batch, index, frame).sigmoid().cpu().numpy(),
        mask=mask.cpu().numpy(),
        truth=truth.cpu().numpy(),
        ignore=None if ignore is None else ignore.cpu().numpy(),
        question=batch.questions[index],
        completion=output.completions.texts[index],
        iou=example_iou(int(intersection), int(union)),
        num_tokens=output.present.shape[1],
    )
