"""Stops a run at the first number that is not finite, before it reaches the weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    import lightning.pytorch as pl


class NaNGuard(Callback):
    """Raises when the loss, or a gradient, is NaN or infinite; the weights stay as the last good step left them.

    The loss is looked at before backward, the gradients before clipping and the optimizer step. With a loss scaler
    (``precision: 16-mixed``) gradients may overflow by design and are left to the scaler. One process that raises ends
    all processes of the run.

    Args:
        check_gradients: look at the gradients too; costs one pass over them a step.

    Raises:
        RuntimeError: naming the step, the batch's keys, the logged values that are not finite, and what to try.
    """

    def __init__(self, *, check_gradients: bool = True) -> None:
        self.check_gradients = check_gradients
        self._keys: list[str] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the examples of the step."""
        self._keys = list(getattr(batch, "keys", []))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Refuse a loss that is not finite."""
        if not torch.isfinite(loss).all():
            raise RuntimeError(self._message(trainer, f"the training loss is {float(loss.detach().sum())}"))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Refuse gradients that are not finite."""
        if not self.check_gradients or getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        named = [(name, p.grad) for name, p in pl_module.named_parameters() if p.grad is not None]
        if not named or _all_finite([gradient for _, gradient in named]):
            return
        spoiled = [name for name, gradient in named if not _all_finite([gradient])]
        shown = ", ".join(spoiled[:5]) + (", …" if len(spoiled) > 5 else "")
        cause = f"the loss is finite, but {len(spoiled)} of {len(named)} gradients are not ({shown})"
        raise RuntimeError(self._message(trainer, cause))

    def _message(self, trainer: pl.Trainer, cause: str) -> str:
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        parts = [f"{name} = {value}" for name, value in sorted(logged.items()) if not math.isfinite(value)]
        return (
            f"{cause} at step {trainer.global_step} (epoch {trainer.current_epoch}, rank {trainer.global_rank}). The "
            "optimizer step was not taken: the weights are those of the step before. Logged and not finite: "
            f"{', '.join(parts) or 'none'}. Examples of the batch: {', '.join(self._keys) or 'unknown'}. To try: look "
            "at these examples' images and masks; a lower model.optimizer.learning_rate, or a warm-up; "
            "trainer.gradient_clip_val: 1.0; trainer.precision: bf16-mixed or 32-true instead of 16-mixed; "
            "trainer.detect_anomaly: true to find the operation."
        )


def _all_finite(gradients: list[Tensor]) -> bool:
    # each process looks at its own shards; an empty shard has no largest entry
    local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
    held = [g for g in local if g.numel()]
    # the largest magnitude is NaN or infinite exactly when some entry is; unlike a sum of squares it cannot overflow
    return not held or bool(torch.isfinite(torch.nn.utils.get_total_norm(held, norm_type=float("inf"))))
