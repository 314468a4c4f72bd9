"""How a word of a thought is marked: how sure the policy was, and how much the word moved the heatmap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from callbacks.text_layout import printable
from coprs_lightning.explain.words import Word

SURPRISE = (230, 120, 0)
"""Behind a word: the stronger, the less probable it was."""
TOWARDS = (0, 114, 178)
AWAY = (213, 94, 0)
"""Blue and vermilion of Okabe and Ito, which colour-blind readers tell apart."""

HOW_TO_READ = (
    "Orange behind a token: the policy was unsure of it (the stronger, the less probable). Bars below it, each row on "
    "a scale of its own: first what its gradient says, then what leaving it out did; blue: the token draws the heatmap "
    "into the {region}, vermilion: out of it."
)


@dataclass(frozen=True)
class Mark:
    """One word as it is drawn.

    Attributes:
        text: without the space before it, visible where it has no letters.
        gap: a space goes before it.
        newline: it ends its line.
        surprise: 1 - probability; 0 in a prompt.
        bars: influences by gradient and by leaving out in [-1, 1]; ``None`` where not known.
        words: the numbers.
    """

    text: str
    gap: bool
    newline: bool
    surprise: float
    bars: tuple[float | None, float | None]
    words: str


def marks(words: Sequence[Word], scale_with: Sequence[Word] = ()) -> list[Mark]:
    """Marks of words.

    Args:
        words: what is drawn.
        scale_with: further words that share the scale of the bars.
    """
    together = [word for word in (*words, *scale_with) if word.part in ("thought", "prompt")] or [*words]
    gradient = max((abs(word.gradient) for word in together if word.gradient is not None), default=0.0)
    left_out = max((abs(word.left_out) for word in together if word.left_out is not None), default=0.0)
    return [_mark(word, gradient, left_out) for word in words]


def _mark(word: Word, gradient: float, left_out: float) -> Mark:
    if "\n" in word.text:
        text = "↵"
    elif not word.text:
        text = "·"  # first bytes of a character
    else:
        text = printable(word.text) or "␣"
    return Mark(
        text=text,
        gap=word.text[:1].isspace() and text != "␣",
        newline="\n" in word.text,
        surprise=0.0 if word.probability is None else 1 - word.probability,
        bars=(_scaled(word.gradient, gradient), _scaled(word.left_out, left_out)),
        words=_numbers(word),
    )


def _scaled(value: float | None, most: float) -> float | None:
    if value is None:
        return None
    return max(-1.0, min(1.0, value / most)) if most else 0.0


def _numbers(word: Word) -> str:
    parts = [
        ("probability", word.probability, ".3f"),
        ("entropy", word.entropy, ".2f"),
        ("gradient", word.gradient, "+.2g"),
        ("left out", word.left_out, "+.3f"),
    ]
    return ", ".join(f"{name} {value:{style}}" for name, value, style in parts if value is not None)
