"""Run by torchrun: nothing fits the first process's examples; the gradients of the step are written down."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from coprs_lightning.module import CoprsModule, OptimizerOptions
from coprs_lightning.objectives import SupervisedObjective
from tests.objectives.test_several import batch_of, several_model
from tests.objectives.trained import fit

COUNTS = ((0, 0), (2, 1))


def main(folder: Path) -> None:
    """One step on each process's own two examples."""
    model = several_model(frozen_backbone=False)
    module = CoprsModule(
        **model.components(),  # type: ignore[arg-type]
        objective=SupervisedObjective(language_weight=0.0),
        optimizer=OptimizerOptions(learning_rate=1e-3),
    )
    mine = [batch_of(*COUNTS[int(os.environ["LOCAL_RANK"])])]
    trainer, steps = fit(folder, module, mine, devices=2, strategy="ddp", use_distributed_sampler=False)
    if trainer.is_global_zero:
        torch.save(steps[0], folder / "gradients.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
