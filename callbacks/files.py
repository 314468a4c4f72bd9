"""Writing small files so that a reader never sees half of one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: no NaN or infinity (``null`` instead), paths as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` beside ``path``, then put it in place in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def append_json_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Add one JSON object a line, all in one write; the half line of a killed run is ended, so that it spoils no other.

    Args:
        path: the file; it and its folder are made where they are absent.
        lines: what to add.
    """
    text = "".join(json.dumps(plain(line), ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                text = "\n" + text
        # a lone surrogate becomes \udc80, which is how JSON spells it
        file.write(text.encode("utf-8", "backslashreplace"))
