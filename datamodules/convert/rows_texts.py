"""Checks the texts and flags of rows that may hold anything."""

from __future__ import annotations

from typing import Any

from datamodules.convert.errors import BadItemError
from datamodules.convert.rows_masks import short

BAD_ROW = "bad row"
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0", "")


def read_text(cells: dict[str, Any], column: str, where: str) -> str:
    """A cell that must hold text.

    Raises:
        BadItemError: missing, empty, no text, or text that no file can hold.
    """
    value = cells.get(column)
    if not isinstance(value, str) or not value.strip():
        found = "nothing" if value is None else "an empty text" if isinstance(value, str) else short(value)
        raise BadItemError(BAD_ROW, f"{where}: column {column} must be a text, got {found}")
    if not is_text(value):
        raise BadItemError(BAD_ROW, f"{where}: column {column} holds characters that are no text: {short(value)}")
    return value.strip()


def is_text(value: str) -> bool:
    """Whether every character can be written and shown: no NUL, no half of a surrogate pair."""
    return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)


def read_texts(cells: dict[str, Any], column: str, where: str) -> list[str]:
    """A cell that holds a text or a list of texts, which mean the same.

    Raises:
        BadItemError: as for :func:`read_text`, or an empty list.
    """
    value = cells.get(column)
    if not isinstance(value, list):
        return [read_text(cells, column, where)]
    if not value:
        raise BadItemError(BAD_ROW, f"{where}: column {column} is an empty list, so there is no question")
    return [read_text({column: part}, column, f"{where}, text {place}") for place, part in enumerate(value)]


def read_flag(value: Any, where: str) -> bool:
    """True or false, of JSON or as a CSV writes them.

    Raises:
        BadItemError: neither.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    text = str(value).strip().lower()
    if text not in _TRUE + _FALSE:
        raise BadItemError(BAD_ROW, f"{where} must be true or false, got {short(value)}")
    return text in _TRUE
