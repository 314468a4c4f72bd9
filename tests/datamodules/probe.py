"""A minimal LightningModule that records which examples it was given."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule


class Probe(LightningModule):
    """One parameter, and lists of the keys of every step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": [], "test": [], "predict": []}
        self.epochs = []

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(list(batch.keys))
        self.epochs.append(self.current_epoch)
        return self.weight * batch.frames.float().mean()

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(list(batch.keys))

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(list(batch.keys))

    def predict_step(self, batch, batch_idx):
        self.seen["predict"].append(list(batch.keys))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
