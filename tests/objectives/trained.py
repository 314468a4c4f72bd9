"""Joint training in a real Trainer, gradients of every optimizer step kept; also run by torchrun as a module."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from coprs_lightning.model import CoprsModel
from coprs_lightning.module import CoprsModule, OptimizerOptions
from coprs_lightning.objectives import GRPOObjective
from coprs_lightning.rl.advantages import DrGRPOAdvantages
from coprs_lightning.structures import SegmentationBatch
from tests.objectives.replay import ReplayRollout
from tests.parts import small_batch, small_model


class KeepGradients(pl.Callback):
    """The gradients that the optimizer gets, in every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        grads = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}
        self.steps.append(grads)


def module_of(model: CoprsModel | None = None, **options: Any) -> CoprsModule:
    """The small model under GRPO over replayed completions."""
    model = small_model() if model is None else model
    given: dict[str, Any] = {"num_generations": 4, "rollout": ReplayRollout(), "advantages": DrGRPOAdvantages()}
    objective = GRPOObjective(**{**given, **options})
    return CoprsModule(**model.components(), objective=objective, optimizer=OptimizerOptions(learning_rate=1e-3))  # type: ignore[arg-type]


def fit(
    folder: Path, module: CoprsModule, batches: list[SegmentationBatch], *callbacks: pl.Callback, **options: Any
) -> tuple[pl.Trainer, list[dict[str, Tensor]]]:
    """Train on given batches, one epoch; the trainer, and the gradients of every step."""
    kept = KeepGradients()
    given: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "logger": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(**{**given, **quiet, "default_root_dir": folder, "callbacks": [kept, *callbacks], **options})
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return trainer, kept.steps


def main(folder: Path, micro_batch_size: int | None) -> None:
    """Each of two processes trains on its half of four examples; the first writes the gradients."""
    batch = small_batch(4)
    rank = int(os.environ["LOCAL_RANK"])
    mine = [batch.part(2 * rank, 2 * rank + 2)]
    module = module_of(micro_batch_size=micro_batch_size)
    trainer, steps = fit(folder, module, mine, devices=2, strategy="ddp", use_distributed_sampler=False)
    if trainer.is_global_zero:
        torch.save(steps[0], folder / "gradients.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) or None)
