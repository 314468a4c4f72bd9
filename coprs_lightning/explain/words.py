"""The tokens of a prompt and of a completion as text, with what the policy thought of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coprs_lightning.policies import Policy
from coprs_lightning.prompts import CONCENTRATION_TOKEN


@dataclass(frozen=True)
class Word:
    """One token.

    Attributes:
        text: what it adds to the text; empty where it is only the first bytes of a character.
        token: its id.
        part: ``thought``, ``concentration``, ``other`` (tags, answer, end of sequence) or ``prompt``.
        probability: that the policy writes it here, at temperature 1; ``None`` in a prompt.
        entropy: of the distribution that it is from, in nats; ``None`` in a prompt.
        gradient: first-order influence on the heatmap, see
            :class:`~coprs_lightning.explain.gradients.WordGradient`; ``None`` where it is not known.
        left_out: how much less of the heatmap is inside the region where the token is left out: above 0, it holds the
            heatmap there. ``None`` where that was not measured.
    """

    text: str
    token: int
    part: str
    probability: float | None = None
    entropy: float | None = None
    gradient: float | None = None
    left_out: float | None = None


def transformers_parts(policy: Policy) -> tuple[Any, Any]:
    """Language model and tokenizer of a policy over a model of transformers, as HFPolicy is one.

    Raises:
        ValueError: for a policy without them.
    """
    lm, tokenizer = getattr(policy, "lm", None), getattr(policy, "tokenizer", None)
    if lm is None or tokenizer is None:
        raise ValueError(
            f"{type(policy).__name__} has no `lm` and `tokenizer` of transformers, so neither its tokens nor their "
            "embeddings can be reached. Give your policy both, or explain a model with HFPolicy."
        )
    return lm, tokenizer


def texts_of(policy: Policy, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; one that completes a character of several tokens has the whole of it.

    Raises:
        ValueError: see :func:`transformers_parts`.
    """
    _, tokenizer = transformers_parts(policy)
    pieces: list[str] = []
    start, said = 0, ""
    for stop in range(1, len(ids) + 1):
        text = str(tokenizer.decode(list(ids[start:stop]), skip_special_tokens=False))
        if text.endswith("\N{REPLACEMENT CHARACTER}") and stop - start < 8:
            pieces.append("")  # the rest of the character follows
            continue
        pieces.append(text[len(said) :] if text.startswith(said) else text)
        # from the last word on: what tokenizers write between two words depends on both
        start, said = stop - 1, str(tokenizer.decode([ids[stop - 1]], skip_special_tokens=False))
    return pieces


def parts_of(texts: Sequence[str]) -> list[str]:
    """Part of each token of a completion, see :attr:`Word.part`; the thought is what :func:`parse_completion` takes."""
    whole = "".join(texts)
    end = whole.rfind("</think>")
    begin = whole.rfind("<think>", 0, end) if end >= 0 else -1
    parts, at = [], 0
    for text in texts:
        middle = at + len(text) - len(text.lstrip())
        if CONCENTRATION_TOKEN in text:
            parts.append("concentration")
        elif begin >= 0 and begin + len("<think>") <= middle < end and text.strip():
            parts.append("thought")
        else:
            parts.append("other")
        at += len(text)
    return parts
