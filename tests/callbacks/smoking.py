"""Runs that a smoke check looks at: small, but real from the image to the mask."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from callbacks.smoke import SmokeCheck, SmokeWarning
from coprs_lightning.module import CoprsModule, GenerationOptions, OptimizerOptions
from coprs_lightning.objectives import SupervisedObjective
from coprs_lightning.structures import SegmentationBatch
from tests.callbacks.tiny import trainer
from tests.parts import small_batch, small_model


def module(*, trained: bool = True, **parts: Any) -> CoprsModule:
    """A module of small parts that reads written thoughts in validation.

    Args:
        trained: move the normalisation layers from where they were built, as training does, and make masks that are
            neither empty nor full.
        parts: in place of the usual ones.
    """
    model = small_model(frozen_backbone=False, **parts)
    made = CoprsModule(
        **model.components(),
        objective=SupervisedObjective(),
        optimizer=OptimizerOptions(learning_rate=1e-5),
        generation=GenerationOptions(max_new_tokens=4),
        validation="teacher_forced",
    )
    if trained:
        stir(made.model)
    return made


def stir(model: nn.Module) -> None:
    """Move every normalisation layer, by very little."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in model.modules():
            if "norm" in type(part).__name__.lower():
                for values in part.parameters(recurse=False):
                    values.add_(torch.randn(values.shape, generator=generator) * 1e-3)


def batches(count: int = 2, change: Callable[[SegmentationBatch], object] | None = None) -> DataLoader[Any]:
    """Batches of four rectangles; ``change`` spoils each."""
    made = [small_batch(4) for _ in range(count)]
    for number, batch in enumerate(made):
        batch.keys = [f"{key} of batch {number}" for key in batch.keys]
        if change is not None:
            change(batch)
    return DataLoader(made, batch_size=None)  # type: ignore[arg-type]


def said(
    folder: Path, run: Callable[[pl.Trainer], Any], *, examples: int = 8, trained_after: int = 100, **options: Any
) -> list[str]:
    """What a smoke check warns of in a run."""
    check = SmokeCheck(examples=examples, trained_after=trained_after)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(trainer(folder, check, **options))
    return [str(one.message) for one in caught if issubclass(one.category, SmokeWarning)]


def validated(folder: Path, checked: pl.LightningModule, data: Any = None, **options: Any) -> list[str]:
    """What it warns of when the module is validated."""
    data = batches() if data is None else data
    return said(folder, lambda run: run.validate(checked, data, verbose=False), **options)
