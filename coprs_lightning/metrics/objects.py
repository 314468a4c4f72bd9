"""How well a model with several concentration tokens tells how many objects there are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class ObjectCounts(Metric):
    """Share of examples for which as many slots stand for an object as there are objects.

    Integer sums: exact under any number of processes. Examples with more objects than slots want all slots.

    Args:
        kwargs: see :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False

    examples: Tensor
    right: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("examples", "right"):
            self.add_state(name, default=torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, chosen: Tensor, objects: Tensor) -> None:
        """Add a batch.

        Args:
            chosen: (B, K) bool, slots that stand for an object.
            objects: (B,) int64, objects that there are.
        """
        self.examples += len(chosen)
        self.right += (chosen.sum(1) == objects.clamp(max=chosen.shape[1])).sum()

    def compute(self) -> dict[str, Tensor]:
        """``count_accuracy``, a float64 scalar on the CPU; nothing without examples."""
        examples = int(self.examples)
        if not examples:
            return {}
        return {"count_accuracy": torch.tensor(int(self.right) / examples, dtype=torch.float64)}
