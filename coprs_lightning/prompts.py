"""Prompt template, completion format, and the way back from a completion to thought, answer and token."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

CONCENTRATION_TOKEN = "<REF_POS>"

_TAGS = ("<think>", "</think>")
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)


def spell_out(text: str, tokens: Iterable[str]) -> str:
    """``text`` with tokens spelled as plain words (``<|im_end|>`` → ``im_end``), which no tokenizer takes for its own.

    Args:
        text: what somebody typed.
        tokens: special tokens; afterwards ``text`` holds none of them.
    """
    return _replace(text, tokens, lambda token: token.strip("<|>"))


def leave_out(text: str, tokens: Iterable[str]) -> str:
    """``text`` without any of ``tokens``."""
    return _replace(text, tokens, lambda _: "")


def _replace(text: str, tokens: Iterable[str], word: Callable[[str], str]) -> str:
    tokens = list(tokens)
    # again until none is left: "<<REF_POS>>" and "<REF_<REF_POS>POS>" hold a new one after a single pass
    while present := [token for token in tokens if token in text]:
        for token in present:
            replacement = word(token)
            text = text.replace(token, replacement if len(replacement) < len(token) else "")
    return text


@dataclass(frozen=True)
class PromptTemplate:
    """Texts around a question and around a written thought. The defaults are the paper's.

    Attributes:
        system: system message; empty for none.
        user: user message; must contain ``{question}``.
        completion: what supervised training teaches; must contain ``{thought}`` and the concentration token.
    """

    system: str = "You are a helpful assistant."
    user: str = (
        "Please find '{question}' in the image.\n"
        "Compare the difference between objects and find the most closely matched one.\n"
        "Output the thinking process in <think> </think>.\n"
        "Then generate one reference position token: <REF_POS>\n"
        "This special token will be used to predict a segmentation mask.\n"
        "Format:\n<think> your reasoning here </think>\nHere is the reference position: <REF_POS>"
    )
    completion: str = "<think> {thought} </think>\nHere is the reference position: <REF_POS>"

    def __post_init__(self) -> None:
        if "{question}" not in self.user:
            raise ValueError(
                f"prompt.user has no '{{question}}' ({self.user!r}): every prompt would be the same. "
                "Add the placeholder."
            )
        if "{thought}" not in self.completion or self.completion.count(CONCENTRATION_TOKEN) != 1:
            raise ValueError(
                f"prompt.completion must hold '{{thought}}' and exactly one {CONCENTRATION_TOKEN}, "
                f"got {self.completion!r}: without them no heatmap can be queried."
            )

    def render_user(self, question: str) -> str:
        """The user message for ``question``; a concentration token typed by the user is spelled as a word."""
        return self.user.replace("{question}", spell_out(question, [CONCENTRATION_TOKEN]))

    def render_completion(self, thought: str) -> str:
        """The completion that supervised training teaches; tags and tokens inside the thought are left out."""
        thought = " ".join(leave_out(thought, [CONCENTRATION_TOKEN, *_TAGS]).split())
        return self.completion.replace("{thought}", thought)


PAPER_PROMPT = PromptTemplate()
"""The paper's texts."""


@dataclass(frozen=True)
class ParsedCompletion:
    """A completion taken apart.

    Attributes:
        thought: text between the think tags, stripped; empty when there is none.
        answer: what was written between the thought and the concentration token, stripped.
        num_tokens: number of concentration tokens.
        well_formed: exactly one non-empty thought and exactly one concentration token, after it.
    """

    thought: str
    answer: str
    num_tokens: int
    well_formed: bool


def parse_completion(text: str) -> ParsedCompletion:
    """Split a completion into thought, answer and token. Never raises: malformed text gives empty parts."""
    thoughts = list(_THINK.finditer(text))
    count = text.count(CONCENTRATION_TOKEN)
    thought = thoughts[-1].group(1).strip() if thoughts else ""
    end = thoughts[-1].end() if thoughts else 0
    last = text.rfind(CONCENTRATION_TOKEN)
    answer = text[end : last if last >= end else len(text)].replace(CONCENTRATION_TOKEN, "").strip()
    tags_once = text.count("<think>") == 1 and text.count("</think>") == 1
    well_formed = tags_once and len(thoughts) == 1 and bool(thought) and count == 1 and last >= end
    return ParsedCompletion(thought=thought, answer=answer, num_tokens=count, well_formed=well_formed)
