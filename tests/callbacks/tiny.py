"""A module of a few parameters that really learns: which pixels are red."""

from __future__ import annotations

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from coprs_lightning.structures import (
    NO_PRIOR_LOGIT,
    Completions,
    Example,
    PolicyOutput,
    SegmentationBatch,
    SegmentationOutput,
)
from datamodules.collate import FrameCollator

FRAME = 16
GOOD = "<think> the red thing </think>\nHere is the reference position: <REF_POS>"
SILENT = "I do not know."
KINDS = ("color", "position", "")


def example(index: int) -> Example:
    """A red rectangle on noise; sizes differ, every sixth has no target and every fourth has pixels to ignore."""
    random = np.random.default_rng(index)
    height, width = (int(n) for n in random.integers(10, 30, 2))
    image = random.integers(0, 90, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), dtype=bool)
    if index % 6 != 5:
        top, left = int(random.integers(0, height // 2)), int(random.integers(0, width // 2))
        mask[top : top + height // 2, left : left + width // 2] = True
    image[mask] = (220, 40, 30)
    ignore = random.random((height, width)) > 0.8 if index % 4 == 0 else None
    return Example(
        key=f"split/{index:03d}",
        image=image,
        question=f"What is red in picture {index}?",
        mask=mask,
        ignore=ignore,
        kind=KINDS[index % len(KINDS)],
    )


def loader(indices: range, batch_size: int = 2) -> DataLoader[SegmentationBatch]:
    """Batches of :func:`example`, in order."""
    examples = [example(index) for index in indices]
    return DataLoader(examples, batch_size=batch_size, collate_fn=FrameCollator(FRAME))  # type: ignore[arg-type]


def text_of(key: str) -> str:
    """What the "policy" writes: every seventh time nothing useful."""
    return SILENT if sum(int(c) for c in key if c.isdigit()) % 7 == 6 else GOOD


class TinySegmenter(pl.LightningModule):
    """One convolution to a heatmap, a scale and shift from there to the mask.

    Args:
        spoil_at: training step at which the loss turns to NaN.
        spoil_gradient: spoil the gradient and leave the loss alone.
    """

    def __init__(self, spoil_at: int | None = None, spoil_gradient: bool = False) -> None:
        super().__init__()
        self.image_size = FRAME
        self.model = nn.ModuleDict({"head": nn.Conv2d(3, 1, 1), "decoder": nn.Conv2d(1, 1, 1)})
        nn.init.ones_(self.model["decoder"].weight)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.spoil_at = spoil_at
        self.spoil_gradient = spoil_gradient

    def logits(self, batch: SegmentationBatch) -> tuple[Tensor, Tensor]:
        heatmap = self.model["head"](batch.frames / 255.0)
        return heatmap, self.model["decoder"](heatmap)

    def training_step(self, batch: SegmentationBatch, batch_idx: int) -> Tensor:
        heatmap, mask = self.logits(batch)
        parts = {
            "heatmap": nn.functional.binary_cross_entropy_with_logits(heatmap, batch.masks),
            "mask": nn.functional.binary_cross_entropy_with_logits(mask, batch.masks),
        }
        if self.global_step == self.spoil_at and self.spoil_gradient:
            weight = self.model["decoder"].weight
            parts["mask"] = parts["mask"] + (weight - weight.detach()).abs().sqrt().sum()  # 0, with an infinite slope
        elif self.global_step == self.spoil_at:
            parts["mask"] = parts["mask"] * float("nan")
        self.log_dict({f"train/loss/{name}": part for name, part in parts.items()})
        return parts["heatmap"] + parts["mask"]

    def validation_step(self, batch: SegmentationBatch, batch_idx: int) -> SegmentationOutput:
        heatmap, mask = self.logits(batch)
        texts = [text_of(key) for key in batch.keys]
        present = torch.tensor([["<REF_POS>" in text] for text in texts], device=self.device)
        lengths = torch.tensor([len(text.split()) for text in texts], device=self.device)
        tokens = torch.arange(int(lengths.max()), device=self.device)[None] < lengths[:, None]
        nothing = torch.zeros(len(texts), 0, dtype=torch.bool)
        return SegmentationOutput(
            heatmap_logits=torch.where(present[..., None, None], heatmap, NO_PRIOR_LOGIT),
            mask_logits=torch.where(present[..., None, None], mask, NO_PRIOR_LOGIT),
            present=present,
            policy=PolicyOutput(torch.zeros(len(texts), 0, 1), nothing, nothing, nothing, nothing, 0),
            completions=Completions(
                ids=tokens.long(), mask=tokens, texts=texts, truncated=torch.zeros(len(texts), dtype=torch.bool)
            ),
        )

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=0.6)


class Clock(pl.Callback):
    """Time that only training steps (half a second) and validation batches (ten seconds) use up."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def on_train_batch_start(self, *_: object, **__: object) -> None:
        self.now += 0.5

    def on_validation_batch_start(self, *_: object, **__: object) -> None:
        self.now += 10


def trainer(folder: object, *callbacks: pl.Callback, **options: object) -> pl.Trainer:
    """A quiet trainer on one CPU process."""
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(default_root_dir=str(folder), callbacks=[*callbacks], **{**quiet, **options})  # type: ignore[arg-type]
