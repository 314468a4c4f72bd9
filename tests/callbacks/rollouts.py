"""A rollout written by hand, and a module that hands it over in every training step."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from coprs_lightning.structures import RolloutRecord
from tests.callbacks.tiny import GOOD, SILENT
from tests.parts import FRAME, small_batch

REWARDS = [0.25, 2.0, 0.0, 1.0]
"""Of a group: completion 1 is the best; 2 has no token."""


def record(prompts: int = 3, rewards: list[float] | None = None) -> RolloutRecord:
    """Four completions a prompt: the box shifted, the truth itself, no token, everything."""
    batch = small_batch(prompts)
    truth = batch.masks[:, 0]
    shapes = torch.stack([truth.roll(9, 2), truth, truth, torch.ones_like(truth)], 1)
    logits = shapes * 20 - 10
    total = torch.tensor([REWARDS if rewards is None else rewards] * prompts)
    size = total.shape[1]
    return RolloutRecord(
        batch=batch,
        texts=[_text(b, g) for b in range(prompts) for g in range(size)],
        truncated=torch.tensor([[False, False, True, False][:size]] * prompts),
        well_formed=torch.tensor([[True, True, False, True][:size]] * prompts),
        lengths=torch.tensor([[7, 8, 96, 9][:size]] * prompts),
        rewards=total,
        reward_parts={"format": (total > 0.5).float(), "mask": total - (total > 0.5).float()},
        advantages=total - total.mean(1, keepdim=True),
        present=torch.tensor([[True, True, False, True][:size]] * prompts),
        heatmap_logits=logits[:, :size],
        mask_logits=logits[:, :size],
    )


def _text(prompt: int, index: int) -> str:
    return SILENT if index == 2 else GOOD.replace("thing", f"thing {index} of {prompt}")


class Sampler(pl.LightningModule):
    """One weight, whose training step hands over a rollout."""

    image_size = FRAME

    def __init__(self, rollout: object = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.rollout = rollout

    def training_step(self, batch, batch_idx):
        return {"loss": self.weight.square().sum(), "rollout": self.rollout}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def batches(count: int) -> DataLoader:
    return DataLoader(range(count), batch_size=1)
