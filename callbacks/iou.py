"""Benchmark numbers of validation and test: gIoU, cIoU, precision, format (paper section 3, evaluation protocol)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from callbacks.step_outputs import check_step
from coprs_lightning.metrics import (
    BoundaryIoU,
    BucketIoU,
    CompletionRates,
    ExampleMetric,
    HeatmapConcentration,
    NoTargetScores,
    ObjectCounts,
    SegmentationIoU,
    answers,
)
from coprs_lightning.metrics.iou import DEFAULT_THRESHOLDS

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from coprs_lightning.structures import SegmentationBatch


class IoUMetrics(Callback):
    """Logs the scores of masks and heatmaps at the end of every validation and test epoch.

    Both are thresholded at logit 0 at the image's own resolution; a completion without a concentration token counts as
    an empty mask. Logged under ``val/`` and ``test/``:

    - ``giou``, ``ciou``, ``precision@<t>``: the mask; ``giou/<kind>``: the mask by kind of question;
    - ``heatmap_giou``, ``heatmap_ciou``: the heatmap, read as a mask;
    - ``none_accuracy``: where questions have no target, the share of them that is answered with an empty mask;
    - ``count_accuracy``: where concentration tokens have a confidence, the share of questions for which as many of them
      stand for an object as there are objects;
    - ``format_rate``: share of well-formed completions; ``token_rate``: share with a concentration token;
      ``truncated_rate``: share that the length limit cut; ``completion_length``: mean length in tokens;
    - ``n``: number of examples;
    - what ``extra`` says, by default ``boundary_iou``; ``n_acc``, ``t_acc`` and the scores of gRefCOCO where questions
      have no target; ``heatmap_inside``, ``heatmap_entropy``, ``heatmap_pointing``; ``giou_by_size/<bucket>`` and
      ``n_by_size/<bucket>``.

    Several dataloaders are pooled. Values are equal on every process and do not depend on how examples are spread over
    processes, provided that the sampler gives each example once. A process may have no examples, but it has to run the
    loop: Lightning skips it for a loader of length 0, and the other processes would wait.

    Args:
        thresholds: IoUs at which precision is reported.
        per_kind: report the gIoU of every kind of question too.
        extra: further metrics; ``null`` is :class:`BoundaryIoU`, :class:`NoTargetScores`,
            :class:`HeatmapConcentration` and :class:`BucketIoU`, an empty list is none.
    """

    def __init__(
        self,
        *,
        thresholds: tuple[float, ...] = DEFAULT_THRESHOLDS,
        per_kind: bool = True,
        extra: list[ExampleMetric] | None = None,
    ) -> None:
        self.mask_iou = SegmentationIoU(thresholds=thresholds, per_kind=per_kind)
        self.heatmap_iou = SegmentationIoU(thresholds=(), per_kind=False)
        self.rates = CompletionRates()
        self.counts = ObjectCounts()
        default = (BoundaryIoU, NoTargetScores, HeatmapConcentration, BucketIoU)
        self.extra: list[ExampleMetric] = [metric() for metric in default] if extra is None else list(extra)

    def _start(self, pl_module: pl.LightningModule) -> None:
        for metric in (self.mask_iou, self.heatmap_iou, self.rates, self.counts, *self.extra):
            metric.to(pl_module.device)
            metric.reset()

    def _update(self, pl_module: pl.LightningModule, outputs: Any, batch: SegmentationBatch) -> None:
        output = check_step(outputs, pl_module)
        frame: int = pl_module.image_size  # type: ignore[assignment]
        for answer in answers(batch, output, frame):
            self.mask_iou.take(answer)
            self.heatmap_iou.update(answer.heatmap_marked, answer.target, answer.ignore)
            for metric in self.extra:
                metric.take(answer)
        completions = output.completions
        self.rates.update(completions.texts, output.present, completions.mask, completions.truncated)
        if output.confidence_logits is not None:
            found = [1] * len(batch) if batch.instances is None else [len(objects) for objects in batch.instances]
            self.counts.update(output.chosen, torch.tensor(found, device=output.present.device))

    def scores(self) -> dict[str, Tensor]:
        """Scores of the epoch so far, over all processes, keys without prefix.

        Raises:
            ValueError: where two metrics report a score of the same name.
        """
        heatmap = self.heatmap_iou.compute()
        found = {
            **self.mask_iou.compute(),
            "heatmap_giou": heatmap["giou"],
            "heatmap_ciou": heatmap["ciou"],
            **self.rates.compute(),
            **self.counts.compute(),
        }
        for metric in self.extra:
            scores = metric.compute()
            if twice := sorted(set(scores) & set(found)):
                raise ValueError(
                    f"IoUMetrics.extra: {type(metric).__name__} reports {', '.join(twice)}, which another metric "
                    "already does. Take one of the two out."
                )
            found |= scores
        return found

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.sanity_checking:
            return
        # MPS has no float64; elsewhere it keeps every digit in the logs
        dtype = torch.float32 if pl_module.device.type == "mps" else torch.float64
        scores = {f"{stage}/{name}": value.to(pl_module.device, dtype) for name, value in self.scores().items()}
        # all processes hold the same values: their maximum is exact, their mean might not be
        shown = {f"{stage}/giou": scores.pop(f"{stage}/giou")}
        pl_module.log_dict(shown, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max")
        pl_module.log_dict(scores, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max")

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last epoch (or the sanity check)."""
        self._start(pl_module)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last epoch."""
        self._start(pl_module)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: SegmentationBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the pixels of the batch."""
        self._update(pl_module, outputs, batch)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: SegmentationBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the pixels of the batch."""
        self._update(pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log ``val/…``."""
        self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log ``test/…``."""
        self._log(trainer, pl_module, "test")
