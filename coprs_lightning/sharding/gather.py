"""Passes through a policy whose weights are divided among processes.

In training every block gathers its weights before it computes, which all processes must do together and equally often.
Decoding is not like that: completions end at different lengths, and a process may have no batch to evaluate. There all
weights are gathered once, before, and no pass communicates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PASS = "sharded_pass"
"""Attribute of a sharded transformers model: its pass below the projection to words, as a forward pass of FSDP's."""

START = "sharded_start"
"""Attribute of a sharded transformers model: a forward pass of FSDP's that computes nothing."""

_GATHERED = "sharding_gathered"


def whole_pass(lm: Any) -> Callable[..., Any]:
    """The transformers model below its projection to words, as it has to be called.

    A sharded model's own weights (embeddings, norms, the projection) are gathered when this is called, and stay until
    the backward pass is over: what follows may use the projection as often as it likes.
    """
    found: Callable[..., Any] = lm.__dict__.get(PASS, lm.model)
    return found


def is_sharded(module: nn.Module) -> bool:
    """Whether weights inside a module are divided among processes."""
    return bool(sharded_parts(module))


def sharded_parts(module: nn.Module) -> list[Any]:
    """The modules that gather weights of their own, outermost first."""
    if not any(getattr(part, "_is_fsdp_managed_module", False) for part in module.modules()):
        return []  # without the import, which takes a second
    from torch.distributed.fsdp import FSDPModule

    return [part for part in module.modules() if isinstance(part, FSDPModule)]


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """All weights inside a module in the memory of every process; nothing happens where they are not divided.

    All processes have to enter and to leave it, but may do different things inside, without gradients. Takes the memory
    of all weights, in the type that they compute in. Inside another such context nothing happens.
    """
    if module.__dict__.get(_GATHERED, False) or not is_sharded(module):
        yield
        return
    gather(module)
    try:
        yield
    finally:
        release(module)


def gather(module: nn.Module) -> None:
    """Begin what :func:`gathered` describes; nothing happens where it has begun."""
    parts = sharded_parts(module)
    if not parts or module.__dict__.get(_GATHERED, False):
        return
    stop_recording(parts)
    # a pass of the whole must come first, for FSDP takes the first module that it sees for the outermost
    with torch.no_grad():
        getattr(module, START)()
    for part in parts:
        part.unshard()
    for part in parts[1:]:  # the outermost keeps its own in any case
        part.set_reshard_after_forward(False, recurse=False)
    module.__dict__[_GATHERED] = True


def release(module: nn.Module) -> None:
    """End what :func:`gather` began; nothing happens where it has not begun."""
    if not module.__dict__.pop(_GATHERED, False):
        return
    parts = sharded_parts(module)
    for part in parts[1:]:
        part.set_reshard_after_forward(True, recurse=False)
    reshard(module)
    for group in _groups(parts):
        del group._record_post_forward


def release_all(module: nn.Module) -> list[nn.Module]:
    """End every :func:`gather` inside a module; returns where, so that they may begin again."""
    found = [part for part in module.modules() if part.__dict__.get(_GATHERED, False)]
    for part in found:
        release(part)
    return found


def reshard(module: nn.Module) -> None:
    """Give gathered weights back; the divided ones stay."""
    for part in sharded_parts(module):
        part.reshard()


def stop_recording(parts: list[Any]) -> None:
    """Let passes leave no trace.

    FSDP lists the order of all passes until the next backward pass, to gather weights ahead of it. Passes without
    gradients would make the list long, and where processes made different ones each would gather something else.
    """
    for group in _groups(parts):
        if not hasattr(group, "_record_post_forward"):
            raise RuntimeError(
                "this version of torch does not record passes through sharded weights as those known to us do, so "
                "processes could wait for each other after decoding. Use a version of torch that the tests ran with."
            )
        group._record_post_forward = _nothing


def _nothing() -> None:
    pass


def _groups(parts: list[Any]) -> list[Any]:
    states = [part._get_fsdp_state() for part in parts]
    groups = [getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group] for state in states]
    return [group for found in groups for group in found if group is not None]


def full(tensor: Tensor) -> Tensor:
    """A tensor in one piece; of a divided one all processes have to ask."""
    whole: Any = getattr(tensor, "full_tensor", None)
    return tensor if whole is None else whole()  # type: ignore[no-any-return]
