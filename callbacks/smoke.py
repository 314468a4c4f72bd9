"""A look at the first examples of a run: does it work at all, and if not, which known cause fits?"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from callbacks.files import write_json
from callbacks.smoke_causes import Finding, Situation, findings
from callbacks.smoke_signs import Signs
from callbacks.smoke_weights import look_at
from coprs_lightning.structures import RolloutRecord, SegmentationBatch, SegmentationOutput

if TYPE_CHECKING:
    import lightning.pytorch as pl


class SmokeWarning(UserWarning):
    """A run that, as it looks, cannot work."""


class SmokeCheck(Callback):
    """Warns once, with the cause that fits and its remedy, where the first examples show that a run cannot work.

    It looks at images, targets, normalised pixels, features, completions, heatmaps, masks and the weights themselves:
    in training at the sanity batches (without them at the first training batches), and once more at the first
    validation after ``trained_after`` steps; in `validate`, `test` and `predict` at the first batches. Weights that
    were just made are not blamed for empty masks. Everything is read off the passes that the run does anyway, on the
    first process. What was seen is written to ``<log_dir>/<filename>``, not under ``fast_dev_run``.

    Args:
        examples: how many of the first examples are looked at.
        trained_after: training steps from which masks and format are expected to be there.
        filename: of the file in the logger's folder; later looks are added to it.

    Raises:
        ValueError: for a number below 1.
    """

    def __init__(self, *, examples: int = 16, trained_after: int = 100, filename: str = "smoke.json") -> None:
        for name, value in (("examples", examples), ("trained_after", trained_after)):
            if value < 1:
                raise ValueError(f"SmokeCheck.{name} must be ≥ 1, got {value}. To check nothing, set it to null.")
        self.examples = examples
        self.trained_after = trained_after
        self.filename = filename
        self._path = Path(filename)
        self._forget()

    def _forget(self) -> None:
        self._signs = Signs()
        self._looks: list[dict[str, Any]] = []
        self._handles: list[RemovableHandle] = []
        self._watching = ""
        self._knows = self._started = self._matured = self._own = self._sampled = False

    # -- when --------------------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the folder; every process has to ask for it, though only the first one writes."""
        self._path = Path(trainer.log_dir or trainer.default_root_dir) / self.filename
        self._unhook()
        self._forget()

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch the sanity batches."""
        self._knows = self._expects(trainer, pl_module)
        self._begin(trainer, pl_module)

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge the sanity batches."""
        self._started = True
        self._judge(trainer, pl_module, "sanity check", trained=self._knows)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Without a sanity check, watch the first training batches."""
        model = getattr(pl_module, "model", None)
        self._knows = self._expects(trainer, pl_module)
        if not self._started and trainer.is_global_zero and isinstance(model, nn.Module):
            self._begin(trainer, pl_module)
            self._watching = "training"
            self._handles.append(model.register_forward_hook(self._on_forward))

    def _expects(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        """Whether training starts from weights that should be able to answer: resumed ones, or another run's."""
        return trainer.global_step >= self.trained_after or bool(getattr(pl_module, "init_from", None))

    def _on_forward(self, model: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        known = given and isinstance(given[0], SegmentationBatch) and isinstance(output, SegmentationOutput)
        if known and model.training:  # a validation may come between the batches
            self._signs.observe(given[0], output, model)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Judge the first training batches, once there are enough of them."""
        if self._watching != "training":
            return
        logs = outputs.get("logs") or {} if isinstance(outputs, dict) else {}
        self._own = self._own or any(name.startswith("own/") for name in logs)
        self._sampled = self._sampled or (
            isinstance(outputs, dict) and isinstance(outputs.get("rollout"), RolloutRecord)
        )
        if self._signs.examples >= self.examples:
            self._end_of_training_look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge what there is of a short epoch."""
        if self._watching == "training" and self._signs.examples:
            self._end_of_training_look(trainer, pl_module)

    def _end_of_training_look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = True
        taught = not (self._own or self._sampled)
        where = "first training batches"
        self._judge(trainer, pl_module, where, trained=self._knows, taught=taught, reinforced=self._sampled)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch the first validation of a trained model."""
        due = trainer.state.fn == "fit" and not self._matured and trainer.global_step >= self.trained_after
        if trainer.state.fn == "validate" or (due and not trainer.sanity_checking):
            self._begin(trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch the first batches."""
        self._begin(trainer, pl_module)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch the first batches."""
        self._begin(trainer, pl_module)

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any) -> None:
        if self._watching != "evaluation" or not isinstance(outputs, SegmentationOutput):
            return
        self._signs.observe(batch, outputs, getattr(pl_module, "model", None))
        if self._signs.examples >= self.examples and not trainer.sanity_checking:
            self._matured = True
            self._judge(trainer, pl_module, "first batches", trained=True)

    def _end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge what there is of a short split."""
        if self._watching == "evaluation" and self._signs.examples and not trainer.sanity_checking:
            self._matured = True
            self._judge(trainer, pl_module, "first batches", trained=True)

    # -- what --------------------------------------------------------------------------------------------------------

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._unhook()
        self._signs = Signs()
        if trainer.is_global_zero:
            self._watching = "evaluation"
            backbone = getattr(getattr(pl_module, "model", None), "backbone", None)
            if isinstance(backbone, nn.Module):
                self._handles = [backbone.register_forward_hook(self._on_features)]

    def _on_features(self, module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            self._signs.see_features(output)

    def _unhook(self) -> None:
        self._watching = ""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _judge(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        where: str,
        *,
        trained: bool,
        taught: bool = False,
        reinforced: bool = False,
    ) -> None:
        self._unhook()
        signs = self._signs
        if not trainer.is_global_zero or not signs.examples:
            return
        model: Any = getattr(pl_module, "model", None)
        parts = model.components() if hasattr(model, "components") else {}
        weights = tuple(look_at(slot, part, finite=signs.spoiled > 0) for slot, part in parts.items())
        found = findings(Situation(signs, weights, trained, taught, reinforced))
        if found:
            # not rank_zero_warn, which would show it as Lightning's
            warnings.warn(message(found, signs, where, trainer.global_step), SmokeWarning, stacklevel=2)
        self._looks.append(
            {
                "where": where,
                "step": trainer.global_step,
                "findings": [asdict(finding) for finding in found],
                "signs": {name: _plain(value) for name, value in asdict(signs).items()},
            }
        )
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            write_json(self._path, {"looks": self._looks})

    # -- Lightning's hooks -------------------------------------------------------------------------------------------

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at a batch."""
        self._look(trainer, pl_module, outputs, batch)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at a batch."""
        self._look(trainer, pl_module, outputs, batch)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at a batch."""
        self._look(trainer, pl_module, outputs, batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge."""
        self._end(trainer, pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge."""
        self._end(trainer, pl_module)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge."""
        self._end(trainer, pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave no hook behind."""
        self._unhook()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._unhook()


def message(found: list[Finding], signs: Signs, where: str, step: int) -> str:
    """The warning: the likeliest cause with its remedy, and what else was seen."""
    first, *rest = found
    besides = "; ".join(finding.evidence for finding in rest)
    return (
        f"smoke check of the {where} ({signs.examples} examples, step {step}): {first.evidence}. Cause that fits: "
        f"{first.name}. {first.remedy}{f' Also seen: {besides}.' if besides else ''} The run goes on."
    )


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
