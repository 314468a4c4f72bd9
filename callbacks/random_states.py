"""The random states of a process as plain data, which a checkpoint may hold."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    import lightning.pytorch as pl


def collect() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's generators, that of the current GPU included."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [str(name), torch.from_numpy(np.array(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if on_gpu else None,
    }


def restore(states: dict[str, Any]) -> None:
    """Put back what :func:`collect` returned."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())


def of_all(trainer: pl.Trainer, own: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of every process by rank; all processes have to ask."""
    if trainer.world_size == 1 or not torch.distributed.is_initialized():
        return [own]
    found: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(found, own)
    return found
