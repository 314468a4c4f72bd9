"""Building modules whose parameters have shapes but no memory: to fill them at once, or only to look at them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

_LOOKING: ContextVar[bool] = ContextVar("only_shapes", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Build modules whose parameters have no memory; whoever builds them gives them values.

    Buffers are made for real: those that no checkpoint holds (rotary frequencies, say) keep exact values. Modules that
    are built meanwhile in other threads of this process are affected too.
    """

    def drop(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        if parameter.is_meta:  # the same object, so that tied weights stay tied
            return parameter
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(drop)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def shapes_only() -> Iterator[None]:
    """As :func:`without_weights`, and parts that would load weights read the configuration of their source alone."""
    token = _LOOKING.set(True)
    try:
        with without_weights():
            yield
    finally:
        _LOOKING.reset(token)


def only_shapes() -> bool:
    """Whether a model is being built to be looked at: no weights are wanted."""
    return _LOOKING.get()
