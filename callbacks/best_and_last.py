"""Checkpoints: the best so far, and always the last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch.callbacks import ModelCheckpoint

if TYPE_CHECKING:
    import lightning.pytorch as pl


class BestAndLast(ModelCheckpoint):
    """Lightning's ModelCheckpoint, with a ``last.ckpt`` that is the last.

    Lightning 2.6 renews ``last.ckpt`` only after a validation whose score is among the best. A run that goes on from it
    would repeat all that came after, and the weights at the end of training would be in no file.
    """

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best as Lightning does, then the last if that has not been done."""
        super().on_validation_end(trainer, pl_module)
        if not self._should_save_on_train_epoch_end(trainer):
            self._renew_last(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same, where checkpoints are saved at the end of epochs."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._should_save_on_train_epoch_end(trainer):
            self._renew_last(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the steps after the last validation too."""
        super().on_train_end(trainer, pl_module)
        self._renew_last(trainer)

    def _renew_last(self, trainer: pl.Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
