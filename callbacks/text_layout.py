"""Fitting text of any length and script into a given width."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

LONGEST_LINE = 400
"""Characters looked at for one line: bounds the cost of measuring on endless completions."""


def printable(text: str) -> str:
    """``text`` on one line, without characters that cannot be drawn (control characters, lone surrogates)."""
    visible = (c if c.isspace() or unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return " ".join("".join(visible).split())


def wrap(text: str, fits: Callable[[str], bool], max_lines: int) -> list[str]:
    """Break ``text`` into lines that fit, at spaces where there are any (Chinese has none), and cut the rest.

    Args:
        text: any text.
        fits: whether a string fits on one line.
        max_lines: lines to fill; what is left over becomes " …" at the end of the last.

    Returns:
        at least one line, possibly empty.
    """
    rest = printable(text)
    lines: list[str] = []
    while rest and len(lines) < max_lines:
        cut = _longest_fitting(rest, fits)
        space = rest.rfind(" ", 0, cut + 1)
        if cut < len(rest) and space > cut // 2:
            cut = space
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    if rest:
        last = lines[-1]
        while last and not fits(last + " …"):
            last = last[:-1]
        space = last.rfind(" ")
        lines[-1] = (last[:space] if space > len(last) // 2 else last).rstrip() + " …"
    return lines or [""]


def _longest_fitting(text: str, fits: Callable[[str], bool]) -> int:
    low, high = 1, min(len(text), LONGEST_LINE)  # one character is taken even where it does not fit
    while low < high:
        middle = (low + high + 1) // 2
        if fits(text[:middle]):
            low = middle
        else:
            high = middle - 1
    return low
