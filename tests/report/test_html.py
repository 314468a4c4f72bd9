"""Escaping and cells."""

from __future__ import annotations

import math

import pytest

from coprs_lightning.report.html import block, clipped, code, details, esc, number, percent, table


def test_nothing_that_is_markup_gets_through() -> None:
    assert esc("<b onload='x'>&\"") == "&lt;b onload=&#x27;x&#x27;&gt;&amp;&quot;"
    for made in (code("<i>"), block("<i>"), details("<i>", ""), table(["<i>"], [])):
        assert "<i>" not in made


def test_what_cannot_be_shown_is_replaced() -> None:
    assert esc("a\x00b\udc80c\u202ed\ne") == "a\ufffdb\ufffdc\ufffdd\ne"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(3, "3"), (12345, "12,345"), (0.5, "0.500"), (None, "–"), (math.nan, "–"), ("<", "&lt;"), (True, "True")],
)
def test_numbers(value: object, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(0.123, "12.3"), (1, "100.0"), (None, "–"), ("x", "–"), (math.inf, "–")])
def test_percent(value: object, shown: str) -> None:
    assert percent(value) == shown


def test_long_texts_are_clipped_and_still_there() -> None:
    assert clipped("short") == "short"
    made = clipped("a" * 800 + "<z>")
    assert "all 803 characters" in made
    assert "&lt;z&gt;" in made
