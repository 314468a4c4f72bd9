"""An exported model that writes different texts about different images, and masks of some size; all in its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from coprs_lightning.checkpoints.folder import write_folder
from coprs_lightning.model import CoprsModel
from coprs_lightning.structures import SegmentationBatch
from datamodules.shard_datamodule import ShardDataModule
from tests.parts import FRAME, small_model

LENGTH = 6
"""Tokens of a completion."""


def batches(folder: Path, unit: Any = "expression", size: int = 1) -> list[SegmentationBatch]:
    """A split as batches."""
    data = ShardDataModule(test=str(folder), eval_unit=unit, eval_batch_size=size, image_size=FRAME)
    data.setup("test")
    return list(data.test_dataloader())


@torch.no_grad()
def talking_model(split: Path) -> CoprsModel:
    """Always with the same weights; about half of its answers have no concentration token."""
    model = small_model()
    rows = batches(split)
    outputs = [model.generate_and_segment(b.images, b.questions, max_new_tokens=LENGTH)[1] for b in rows]
    hidden = torch.cat([o.policy.hidden[0, o.policy.prompt_length - 1 :] for o in outputs])
    model.policy.lm.lm_head.weight[model.policy.concentration_id] += 0.7 * hidden.mean(0)
    model.decoder.head.weight *= -30  # what the image shows outweighs the prior
    answered = [model.generate_and_segment(b.images, b.questions, max_new_tokens=LENGTH)[1] for b in rows]
    logits = torch.cat([o.mask_logits.flatten() for o in answered if o.present.any()])
    model.decoder.head.bias -= logits.quantile(0.8)  # a fifth of the frame is marked
    model.max_new_tokens = LENGTH
    return model


def export_talking(folder: Path, split: Path) -> Path:
    """The model as a folder of `coprs export`."""
    folder.mkdir(parents=True)
    write_folder(talking_model(split), {"max_new_tokens": LENGTH}, folder)
    return folder
