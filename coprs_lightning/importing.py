"""Which modules a config or a checkpoint may name: class paths are data from elsewhere, importing them runs code."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

DEFAULT_ALLOWED = ("coprs_lightning", "datamodules", "callbacks", "lightning", "torch.optim", "torchmetrics")
ALLOW_ENV = "COPRS_ALLOW_IMPORTS"

_downloaded: ContextVar[bool | None] = ContextVar("_downloaded", default=None)


def allowed_packages() -> tuple[str, ...]:
    """The packages that a ``class_path`` may come from; ``COPRS_ALLOW_IMPORTS`` adds some, comma separated."""
    extra = os.environ.get(ALLOW_ENV, "")
    return DEFAULT_ALLOWED + tuple(name.strip() for name in extra.split(",") if name.strip())


@contextmanager
def from_elsewhere(*, trusted: bool) -> Iterator[None]:
    """Import what a model that others made names: only parts of this package, or anything where it is trusted.

    Args:
        trusted: the user vouches for it (``trust_remote_code=True``).
    """
    token = _downloaded.set(trusted)
    try:
        yield
    finally:
        _downloaded.reset(token)


def check_allowed(class_path: str) -> None:
    """Refuse a class path outside the allow-list.

    Raises:
        ValueError: naming the path and the way to allow it.
    """
    trusted = _downloaded.get()
    if trusted:
        return
    if trusted is False:
        own = ("coprs_lightning", *allowed_packages()[len(DEFAULT_ALLOWED) :])
        if not any(class_path.startswith(name + ".") for name in own):
            raise ValueError(
                f"the model's configuration names the class {class_path!r}, which is not of this package: importing it "
                f"would run its code. If you trust it and have it installed, pass trust_remote_code=True, or set "
                f"{ALLOW_ENV}={class_path.split('.')[0]}."
            )
        return
    if not any(class_path == name or class_path.startswith(name + ".") for name in allowed_packages()):
        package = class_path.split(".")[0]
        raise ValueError(
            f"class path {class_path!r} is outside the packages that a config or checkpoint may import "
            f"({', '.join(allowed_packages())}): importing it would run its code. "
            f"If it is yours, set {ALLOW_ENV}={package}."
        )


def import_class(class_path: str) -> type:
    """Import ``package.module.Class`` after :func:`check_allowed`."""
    check_allowed(class_path)
    module, _, name = class_path.rpartition(".")
    found = getattr(importlib.import_module(module), name, None)
    if not isinstance(found, type):
        raise ValueError(f"{class_path!r} names no class: {module} has no class {name!r}.")
    return found
