"""Reads pickled plain data. A pickle is a program: this reader runs none of it beyond building plain values."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from datamodules.convert.errors import BadSourceError

_PLAIN: dict[str, Any] = {kind.__name__: kind for kind in (list, dict, tuple, set, frozenset, str, int, float, bool)}
_PLAIN |= {"unicode": str, "long": int}
_MODULES = ("builtins", "__builtin__")  # the second is Python 2's name


class _RefusedError(Exception):
    """A global that plain data does not need."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in _MODULES and name in _PLAIN:
            return _PLAIN[name]
        raise _RefusedError(f"{module}.{name}")


def load_plain_pickle(path: Path) -> Any:
    """Load lists, dicts, tuples, sets, strings, numbers, booleans and ``None`` from a pickle of Python 2 or 3.

    Byte strings of Python 2 are read as UTF-8, or as Latin-1 where they are not.

    Raises:
        BadSourceError: the pickle asks for anything else (named; nothing of it was imported or called), or is no
            readable pickle.
    """
    data = path.read_bytes()
    try:
        try:
            return _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
        except UnicodeDecodeError:
            return _PlainUnpickler(io.BytesIO(data), encoding="latin-1").load()
    except _RefusedError as error:
        raise BadSourceError(
            f"{path} asks for {error}, which plain data does not need: loading it could run code, so it was refused "
            "and nothing of it ran. If you trust the file, save its content as JSON under the same name with the "
            f"ending .json ({path.stem}.json) and move the pickle away."
        ) from error
    except Exception as error:  # broken pickles raise UnpicklingError, EOFError, KeyError, IndexError, TypeError …
        raise BadSourceError(
            f"{path} is no readable pickle ({type(error).__name__}: {error}): truncated or another kind of file. "
            "Download it again."
        ) from error
