"""Does the mask follow the heatmap? Heatmap quality against mask quality (paper Figure 3)."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from callbacks.correlation_files import Correlation, publish
from callbacks.correlation_fit import LineFit
from callbacks.correlation_points import KeyedSample, Point, StridedPoints
from callbacks.step_outputs import check_step, original_logits
from coprs_lightning.metrics.iou import example_iou, intersection_and_union

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from coprs_lightning.structures import SegmentationBatch, SegmentationOutput

_HEATMAP, _MASK, _CONFIDENCE = "loss/heatmap_bce", "loss/dice", "loss/confidence"
_TOKEN_RATE = "completions/token_rate"


class ExampleCorrelation(Callback):
    """Two scores of every example of a validation or test, held against each other.

    Files ``<stage>-step-<step>.png``, ``.csv`` and ``.json`` go to ``<log_dir>/<folder>``, the picture to loggers that
    take pictures, and R as ``<stage>/<name>_r`` to all of them. Values are equal on every process and independent of
    how examples are spread over processes; an example that comes twice counts once. Nothing is written in the sanity
    check, under ``fast_dev_run``, and for fewer than three points.

    Args:
        max_points: examples kept of each epoch; of more, a sample that is always the same.
        folder: where to, relative to the logger's folder (or ``trainer.default_root_dir`` without one).

    Raises:
        ValueError: for fewer than three points.
    """

    name = "correlation"
    title = ""
    columns = ("x", "y")
    comparable = False

    def __init__(self, *, max_points: int = 20_000, folder: str = "correlation") -> None:
        if max_points < 3:
            raise ValueError(f"{type(self).__name__}.max_points must be ≥ 3, got {max_points}: a line needs three.")
        self.max_points = max_points
        self.folder = folder
        self._root = Path(folder)
        self._start()

    # -- what variants fill in ---------------------------------------------------------------------------------------

    def scores(
        self, output: SegmentationOutput, batch: SegmentationBatch, index: int, frame: int
    ) -> tuple[float, float] | str:
        """The two scores of an example, or why it has none (one word, counted).

        Args:
            output: of the step.
            batch: its batch.
            index: which example.
            frame: side S of the frames.
        """
        raise NotImplementedError(f"{type(self).__name__} has to say which scores it compares.")

    # -- collecting --------------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the folder; every process has to ask for it, though only the first one writes."""
        self._root = Path(trainer.log_dir or trainer.default_root_dir) / self.folder

    def _start(self) -> None:
        self._sample = KeyedSample(self.max_points)
        self._counts: dict[str, int] = {"seen": 0}

    def _collect(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, loader: int
    ) -> None:
        if trainer.sanity_checking:
            return
        output = check_step(outputs, pl_module)
        frame: int = pl_module.image_size  # type: ignore[assignment]
        for index in range(len(batch)):
            self._counts["seen"] += 1
            found = self.scores(output, batch, index, frame)
            if isinstance(found, str):
                self._counts[found] = self._counts.get(found, 0) + 1
            else:
                key = batch.keys[index] if not loader else f"{batch.keys[index]} of dataloader {loader}"
                self._sample.add(Point(key, *found, batch.kinds[index]))

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> LineFit | None:
        if trainer.sanity_checking:
            return None
        points, counts = self._gathered()
        self._start()
        if len(points) < 3:
            return None
        found = Correlation(
            name=f"{self._prefix()}{stage}-step-{trainer.global_step:06d}",
            title=f"{self.title} · {stage}, step {trainer.global_step}",
            columns=self.columns,
            rows={"key": [point.key for point in points], "kind": [point.kind for point in points]},
            x=[point.x for point in points],
            y=[point.y for point in points],
            facts={"stage": stage, "step": trainer.global_step, **counts},
            diagonal=self.comparable,
        )
        fit = found.fit()
        if math.isfinite(fit.r):
            # all processes hold the same value: its maximum is exact, its mean might not be
            dtype = torch.float32 if pl_module.device.type == "mps" else torch.float64
            value = torch.tensor(fit.r, device=pl_module.device, dtype=dtype)
            logged = {f"{stage}/{self.name}_r": value}
            pl_module.log_dict(logged, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max")
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            publish(found, self._root, trainer, stage, self.name)
        return fit

    def _prefix(self) -> str:
        return "" if self.name == HeatmapMaskCorrelation.name else f"{self.name}-"

    def _gathered(self) -> tuple[list[Point], dict[str, int]]:
        """Points and counts of all processes."""
        mine = ([asdict(point) for point in self._sample.points()], self._counts)
        if not (dist.is_available() and dist.is_initialized()):
            return self._sample.points(), self._counts
        shares: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(shares, mine)
        merged = KeyedSample(self.max_points)
        counts: dict[str, int] = {}
        for points, counted in shares:
            merged.merge(Point(**point) for point in points)
            for name, number in counted.items():
                counts[name] = counts.get(name, 0) + number
        return merged.points(), counts

    # -- Lightning's hooks -------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last epoch."""
        self._start()

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last epoch."""
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
        """Score the examples of the batch."""
        self._collect(trainer, pl_module, outputs, batch, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: SegmentationBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Score the examples of the batch."""
        self._collect(trainer, pl_module, outputs, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit, write, log."""
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit, write, log."""
        self._finish(trainer, pl_module, "test")


class HeatmapMaskCorrelation(ExampleCorrelation):
    """Heatmap quality against mask quality, as in the paper's Figure 3: a line, its 95 % band, Pearson's R and n.

    In validation and test, one point an example: IoU of the heatmap and IoU of the mask, both thresholded at logit 0 at
    the image's own size. Examples without a concentration token (both would be empty) and without a target are counted
    and left out. In training, one point a step: 1 − BCE of the heatmap and 1 − Dice loss of the mask over the batches
    of all processes, from the losses that the objective computed anyway; ``train.png``, ``.csv`` and ``.json`` are
    written anew at every validation and at the end, and a resumed run goes on with its checkpoint's points.

    Args:
        max_points: points kept, of each evaluation and of training; a long training keeps every second, then every
            fourth step and so on.
        folder: where to, relative to the logger's folder (or ``trainer.default_root_dir`` without one).

    Raises:
        ValueError: for fewer than three points.
    """

    name = "heatmap_mask"
    title = "Heatmap and mask"
    columns = ("heatmap_iou", "mask_iou")
    comparable = True

    def __init__(self, *, max_points: int = 20_000, folder: str = "correlation") -> None:
        super().__init__(max_points=max_points, folder=folder)
        self._train = StridedPoints(max_points)

    def scores(
        self, output: SegmentationOutput, batch: SegmentationBatch, index: int, frame: int
    ) -> tuple[float, float] | str:
        """See :meth:`ExampleCorrelation.scores`."""
        if not bool(output.present[index].any()):
            return "no_token"
        truth, ignore = batch.original_masks[index], batch.original_ignores[index]
        if not bool((truth if ignore is None else truth & ~ignore).any()):
            return "no_target"
        heatmap, mask = output.union()
        ious = []
        for logits in (heatmap, mask):
            counted = intersection_and_union(original_logits(logits, batch, index, frame) > 0, truth, ignore)
            ious.append(example_iou(*(int(count) for count in counted)))
        return ious[0], ious[1]

    # -- training ----------------------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """Lets several of them with different folders work in one run."""
        return self._generate_state_key(folder=self.folder)

    def state_dict(self) -> dict[str, Any]:
        """The points of training."""
        return {"points": self._train.table(), "stride": self._train.stride, "seen": self._train.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the checkpoint's points."""
        self._train.restore(state_dict["points"], state_dict["stride"], state_dict["seen"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch's losses, summed over processes."""
        if not self._train.wants():
            self._train.skip()
            return
        logs = outputs.get("logs") if isinstance(outputs, dict) else None
        sums = _weighted_losses(logs or {}, batch).to(pl_module.device)
        # every process takes part, whatever it has
        summed = trainer.strategy.reduce(sums, reduce_op="sum")
        self._train.add(trainer.global_step, summed.detach())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what training gave so far."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._write_training(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what training gave."""
        self._write_training(trainer)

    def _write_training(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        table = self._train.table()
        rows = table[table[:, -1] > 0] if table.shape[1] > 1 else table[:0]
        if len(rows) < 3:
            return
        x, y = (1 - rows[:, column] / rows[:, 3] for column in (1, 2))
        found = Correlation(
            name="train",
            title=f"Heatmap and mask · training batches up to step {trainer.global_step}",
            columns=("one_minus_heatmap_bce", "one_minus_mask_dice_loss"),
            rows={"step": [int(step) for step in rows[:, 0].tolist()]},
            x=x.tolist(),
            y=y.tolist(),
            facts={
                "stage": "train",
                "step": trainer.global_step,
                "seen": self._train.seen,
                "every": self._train.stride,
            },
            unit_square=False,
        )
        publish(found, self._root, trainer, "train", self.name)


def _weighted_losses(logs: dict[str, Tensor], batch: SegmentationBatch) -> Tensor:
    """(3,) float32: sums over a batch of the heatmap's BCE and the mask's Dice loss, and over how many examples.

    Objectives average over examples that add nothing too: completions without a token (reinforcement tells their rate)
    and, with several tokens, questions that nothing answers. Here only those count that have a heatmap to be trained.
    """
    if _HEATMAP not in logs or _MASK not in logs:
        return torch.zeros(3)
    size, answered = float(len(batch)), 1.0
    if _CONFIDENCE in logs and batch.instances is not None and len(batch):
        answered = sum(len(objects) > 0 for objects in batch.instances) / len(batch)
    rate = logs.get(_TOKEN_RATE, torch.ones(()))
    parts = torch.stack([logs[_HEATMAP].float(), logs[_MASK].float(), rate.float().to(logs[_MASK].device) * answered])
    return parts.detach() * size
