"""What the weights themselves tell: whether a part was ever trained, and what its loader said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_STATISTICS = {"running_mean": (0.0,), "running_var": (1.0,)}


@dataclass(frozen=True)
class PartWeights:
    """The weights of one part.

    Attributes:
        slot: its name in the model.
        frozen: nothing of it is trained.
        untouched: its normalisation layers are as they are built, which no training leaves so; ``None`` where it has
            none to tell by.
        zero: all its weight matrices are 0.
        spoiled: names of weights that are not finite, where that was asked for.
        loading: ``loaded``, ``missing`` and ``unexpected`` numbers of keys, where the part recorded them.
    """

    slot: str
    frozen: bool
    untouched: bool | None
    zero: bool
    spoiled: tuple[str, ...]
    loading: dict[str, int] | None


def look_at(slot: str, part: nn.Module, *, finite: bool = False) -> PartWeights:
    """Look at the weights of a part; each process at its own shards.

    Args:
        slot: name of the part.
        part: the part.
        finite: look for weights that are not finite too, which reads all of them.
    """
    named = [(name, held) for name, p in part.named_parameters() if (held := _local(p)).numel()]
    matrices = [held for _, held in named if held.ndim > 1 and held.is_floating_point()]
    floats = [(name, held) for name, held in named if held.is_floating_point()]
    return PartWeights(
        slot=slot,
        frozen=bool(named) and not any(p.requires_grad for p in part.parameters()),
        untouched=untouched(part),
        zero=bool(matrices) and not any(bool(held.any()) for held in matrices),
        spoiled=tuple(name for name, held in floats if finite and not bool(torch.isfinite(held).all())),
        loading=_loading(part),
    )


def untouched(part: nn.Module) -> bool | None:
    """Whether every normalisation layer of a part still has the weights that it was built with: all 1 (or 0), bias 0.

    Returns:
        ``None`` for a part without such layers.
    """
    found = False
    for module in part.modules():
        if "norm" not in type(module).__name__.lower():
            continue
        for name, values in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            held = _local(values)
            if held.ndim != 1 or not held.numel() or not held.is_floating_point():
                continue
            usual = _STATISTICS.get(name, (0.0,) if "bias" in name else (0.0, 1.0))
            if not any(bool((held == value).all()) for value in usual):
                return False
            found = found or "weight" in name
    return True if found else None


def _loading(part: nn.Module) -> dict[str, int] | None:
    """Sum over what the loaders of a part's modules recorded as ``load_report``."""
    reports: list[dict[str, Any]] = [r for m in part.modules() if isinstance(r := m.__dict__.get("load_report"), dict)]
    if not reports:
        return None
    return {name: sum(int(r.get(name, 0)) for r in reports) for name in ("loaded", "missing", "unexpected")}


def _local(values: Tensor) -> Tensor:
    return (values.to_local() if isinstance(values, DTensor) else values).detach()
