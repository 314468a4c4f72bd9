"""A fingerprint of what a split is converted from: the same command on the same source gives the same one."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def fingerprint(*parts: Any, jobs: Iterable[Any] = ()) -> str:
    """SHA-256 over plain data, dataclasses and arrays; a file stands for its path, size and time of change.

    Args:
        parts: options and the like.
        jobs: what is converted, one after the other.
    """
    digest = hashlib.sha256()
    for part in parts:
        _add(digest, part)
    for job in jobs:
        _add(digest, job)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Path):
        _add(digest, ("path", str(value.absolute()), *_stat(value)))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        _add(digest, (type(value).__name__, *fields))
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        _add(digest, ("dict", *value.items()))
    elif isinstance(value, list | tuple):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _add(digest, item)
    elif isinstance(value, set | frozenset):
        _add(digest, ("set", *sorted(map(repr, value))))
    else:  # numbers, texts, bytes, None: their names are what they are
        digest.update(f"{type(value).__name__}:{value!r};".encode())


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (-1, -1)
    return (found.st_size, found.st_mtime_ns) if path.is_file() else (0, 0)
