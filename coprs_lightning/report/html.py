"""Pieces of HTML. Whatever was written by a model, a person or a file goes through :func:`esc`."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Sequence


def esc(text: object) -> str:
    """``text`` as it can stand between tags and inside a quoted attribute; what cannot be shown is replaced."""
    shown = "".join(
        c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in str(text)
    )
    return html.escape(shown, quote=True)


def number(value: object, digits: int = 3) -> str:
    """A number for a table; a dash where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else esc(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def percent(value: object) -> str:
    """A fraction as percent with one digit; a dash where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numeric_from: int = 1) -> str:
    """A table that scrolls by itself where it is too wide.

    Args:
        head: column headings, as text.
        rows: cells, as HTML.
        numeric_from: columns from this one on are aligned to the right.
    """

    def style(column: int) -> str:
        return ' class="num"' if column >= numeric_from else ""

    heads = "".join(f'<th scope="col"{style(i)}>{esc(name)}</th>' for i, name in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{style(i)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def details(summary: str, content: str, *, opened: bool = False) -> str:
    """What is shown on a click.

    Args:
        summary: text of the line that is clicked.
        content: HTML.
        opened: shown from the start.
    """
    return f"<details{' open' if opened else ''}><summary>{esc(summary)}</summary>{content}</details>"


def note(text: str) -> str:
    """A remark, given as HTML."""
    return f'<p class="note">{text}</p>'


def code(text: object) -> str:
    """A word of a command or a file."""
    return f"<code>{esc(text)}</code>"


def block(text: object) -> str:
    """Several lines as they are."""
    return f'<pre tabindex="0">{esc(text)}</pre>'


def clipped(text: str, most: int = 700) -> str:
    """A text in a cell, the rest of a long one behind a click."""
    if len(text) <= most:
        return esc(text)
    return f"{esc(text[:most])} …{details(f'all {len(text):,} characters', block(text))}"
