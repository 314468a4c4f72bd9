"""Putting saved weights into a model: strictly, once, and without random numbers first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_SHOWN = 8


def first_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """For every key of a state dict (taken with ``keep_vars=True``) the first key of the same tensor, tied or not."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}


def untied(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Saved weights with a value under every name of those that are tied in a module, as ``load_state_dict`` wants."""
    first = first_names(module.state_dict(keep_vars=True))
    held = {first[name]: value for name, value in weights.items() if name in first}
    return {**{name: held[own] for name, own in first.items() if own in held}, **weights}


def load_strictly(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    source: str,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Give a module all of its weights; each is copied once, straight to its place.

    Args:
        module: what to fill; its parameters may be without memory (:mod:`coprs_lightning.weightless`).
        weights: a value for every key; of tied ones, one is enough.
        source: where they come from, for messages.
        device: where the weights go; ``None`` is the CPU.
        dtype: type of all floating-point weights; ``None`` keeps the saved one.

    Raises:
        ValueError: naming the keys that are missing, unexpected or of another shape.
    """
    expected: dict[str, Tensor] = module.state_dict(keep_vars=True)
    first = first_names(expected)
    held: dict[str, str] = {}
    for name in weights:
        if name in expected:
            held.setdefault(first[name], name)
    _insist(expected, weights, {name for name in expected if first[name] not in held}, source)
    state: dict[str, Any] = {}
    for name, current in expected.items():
        if first[name] not in state:
            kind = dtype if dtype is not None and current.is_floating_point() else None
            value = weights[held[name]].detach().to(device=device or "cpu", dtype=kind, copy=True)
            parameter = isinstance(current, nn.Parameter)
            state[name] = nn.Parameter(value, current.requires_grad) if parameter else value
        state[name] = state[first[name]]
    module.load_state_dict(state, strict=True, assign=True)
    if device is not None:
        module.to(device)  # buffers that no checkpoint holds


def _insist(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], missing: set[str], source: str) -> None:
    problems = [f"missing: {name}" for name in expected if name in missing]
    problems += [f"unexpected: {name}" for name in weights if name not in expected]
    for name, tensor in weights.items():
        if name in expected and tuple(tensor.shape) != tuple(expected[name].shape):
            here, there = tuple(expected[name].shape), tuple(tensor.shape)
            problems.append(f"of another shape: {name} is {there}, the model's {here}")
    if problems:
        more = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        listing = "".join(f"\n  {line}" for line in [*problems[:_SHOWN], *more])
        raise ValueError(
            f"the weights in {source} are not those of the model that its configuration describes, so nothing was "
            f"loaded. Use the two files as they were written together.{listing}"
        )
