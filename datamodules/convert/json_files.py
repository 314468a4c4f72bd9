"""Reads JSON files of unknown quality."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: Path, *, fallback: str | None = None) -> Any:
    """Parse a JSON file.

    Args:
        path: the file; UTF-8, with or without a byte-order mark.
        fallback: encoding of files that are not UTF-8, ``None`` to refuse them.

    Raises:
        ValueError: naming the file, and line and column where the syntax breaks.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if fallback is None:
            raise ValueError(f"{path}: not UTF-8: {error}") from error
        try:
            text = data.decode(fallback)
        except UnicodeDecodeError:
            raise ValueError(f"{path}: neither UTF-8 nor {fallback}: {error}") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: broken JSON at line {error.lineno} column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits; brackets nested without end
        raise ValueError(f"{path}: broken JSON: {error}") from error
