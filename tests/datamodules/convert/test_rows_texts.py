from __future__ import annotations

import pytest

from datamodules.convert.errors import BadItemError
from datamodules.convert.rows_texts import read_flag, read_text, read_texts


def test_texts() -> None:
    assert read_text({"q": " a b "}, "q", "t") == "a b"
    assert read_texts({"q": "a"}, "q", "t") == ["a"]
    assert read_texts({"q": ["a", "ü 🐻"]}, "q", "t") == ["a", "ü 🐻"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "t: column q must be a text, got nothing"),
        ("  ", "t: column q must be a text, got an empty text"),
        (3, "t: column q must be a text, got 3"),
        (["a", ""], "t, text 1: column q must be a text, got an empty text"),
        ([], "t: column q is an empty list, so there is no question"),
        ("a\0", r"t: column q holds characters that are no text: 'a\\x00'"),
        ("\ud83d", "holds characters that are no text"),
    ],
)
def test_no_texts(value: object, message: str) -> None:
    with pytest.raises(BadItemError, match=message):
        read_texts({"q": value}, "q", "t")


def test_flags() -> None:
    assert [read_flag(value, "t") for value in (True, "true", "YES", 1, "1 ")] == [True] * 5
    assert [read_flag(value, "t") for value in (False, None, "", "no", 0, "FALSE")] == [False] * 6
    with pytest.raises(BadItemError, match="bad row: t must be true or false, got 'maybe'"):
        read_flag("maybe", "t")
