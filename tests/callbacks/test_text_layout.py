"""Wrapping of text of any length and script."""

from __future__ import annotations

import pytest

from callbacks.text_layout import printable, wrap


def at_most(width):
    return lambda text: len(text) <= width


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three", ["one two", "three"]),
        ("one  two\n\tthree", ["one two", "three"]),
        ("", [""]),
        (" \n ", [""]),
        ("abcdefghijkl", ["abcdefgh", "ijkl"]),
        ("一二三四五六七八九十", ["一二三四五六七八", "九十"]),
        ("a 一二三四五六七八九", ["a 一二三四五六", "七八九"]),
    ],
)
def test_lines_break_at_spaces_or_where_they_must(text, expected):
    assert wrap(text, at_most(8), 5) == expected


def test_what_does_not_fit_is_cut_at_a_word():
    assert wrap("one two three four five six seven", at_most(9), 2) == ["one two", "three …"]
    assert wrap("x" * 50, at_most(9), 2) == ["x" * 9, "x" * 7 + " …"]


def test_endless_text_is_measured_in_bounded_pieces():
    longest = []

    def fits(text):
        longest.append(len(text))
        return len(text) <= 100

    assert len(wrap("word " * 200_000, fits, 6)) == 6
    assert max(longest) <= 402


def test_a_character_wider_than_the_line_is_still_drawn():
    assert wrap("abc", at_most(0), 2)[0] == "a"


def test_undrawable_characters_are_replaced():
    assert printable("a\x00b\ud800c\u200bd\ne") == "a\ufffdb\ufffdc\ufffdd e"
