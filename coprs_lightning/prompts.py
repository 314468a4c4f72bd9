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


_PAPER_USER = (
    "Please find '{question}' in the image.\n"
    "Compare the difference between objects and find the most closely matched one.\n"
    "Output the thinking process in <think> </think>.\n"
    "Then generate one reference position token: <REF_POS>\n"
    "This special token will be used to predict a segmentation mask.\n"
    "Format:\n<think> your reasoning here </think>\nHere is the reference position: <REF_POS>"
)
_PAPER_COMPLETION = "<think> {thought} </think>\nHere is the reference position: <REF_POS>"
_SEVERAL_USER = (
    "Please find '{question}' in the image: there may be one such object, several, or none.\n"
    "Compare the difference between objects and find all that match.\n"
    "Output the thinking process in <think> </think>.\n"
    "Then generate exactly {num_tokens} reference position tokens: {tokens}\n"
    "Each of these special tokens will be used to predict the segmentation mask of one object; those left over stay "
    "empty, and all of them do where nothing matches.\n"
    "Format:\n<think> your reasoning here </think>\nHere are the {num_tokens} reference positions: {tokens}"
)
_SEVERAL_COMPLETION = "<think> {thought} </think>\nHere are the {num_tokens} reference positions: {tokens}"


@dataclass(frozen=True)
class PromptTemplate:
    """Texts around a question and around a written thought. The defaults are the paper's.

    In ``user`` and ``completion``, ``{tokens}`` stands for all concentration tokens and ``{num_tokens}`` for their
    number.

    Attributes:
        system: system message; empty for none.
        user: user message; must contain ``{question}``. With several tokens the paper's own text becomes its form for
            several objects and none.
        completion: what supervised training teaches; must contain ``num_tokens`` concentration tokens, and
            ``{thought}`` unless it has no think tags at all: such a model answers without a thought, and its
            completions never count as well formed. The paper's own text becomes its form for several, likewise.
        num_tokens: K, concentration tokens of a completion: the most objects that can be told apart.
    """

    system: str = "You are a helpful assistant."
    user: str = _PAPER_USER
    completion: str = _PAPER_COMPLETION
    num_tokens: int = 1

    def __post_init__(self) -> None:
        if self.num_tokens < 1:
            raise ValueError(
                f"prompt.num_tokens must be ≥ 1, got {self.num_tokens}: without a token there is no heatmap."
            )
        if self.num_tokens > 1:
            for name, paper, several in (
                ("user", _PAPER_USER, _SEVERAL_USER),
                ("completion", _PAPER_COMPLETION, _SEVERAL_COMPLETION),
            ):
                if getattr(self, name) == paper:
                    object.__setattr__(self, name, several)
        if "{question}" not in self.user:
            raise ValueError(
                f"prompt.user has no '{{question}}' ({self.user!r}): every prompt would be the same. "
                "Add the placeholder."
            )
        count = self._filled(self.completion).count(CONCENTRATION_TOKEN)
        if count != self.num_tokens:
            wanted = "exactly one" if self.num_tokens == 1 else f"'{{tokens}}' or exactly {self.num_tokens}"
            raise ValueError(
                f"prompt.completion must hold {wanted} {CONCENTRATION_TOKEN} (prompt.num_tokens is {self.num_tokens}), "
                f"got {self.completion!r}: without them no heatmap can be queried."
            )
        if "{thought}" not in self.completion and any(tag in self.completion for tag in _TAGS):
            raise ValueError(
                f"prompt.completion has think tags and no '{{thought}}' ({self.completion!r}): every thought would be "
                "the same. Add the placeholder, or leave the tags out to train without thoughts."
            )

    def _filled(self, text: str) -> str:
        """A text with the number of tokens and the tokens; no space between them, which would be a token of its own."""
        tokens = CONCENTRATION_TOKEN * self.num_tokens
        return text.replace("{num_tokens}", str(self.num_tokens)).replace("{tokens}", tokens)

    def render_user(self, question: str) -> str:
        """The user message for ``question``; a concentration token typed by the user is spelled as a word."""
        return self._filled(self.user).replace("{question}", spell_out(question, [CONCENTRATION_TOKEN]))

    def render_completion(self, thought: str) -> str:
        """The completion that supervised training teaches; tags and tokens inside the thought are left out."""
        thought = " ".join(leave_out(thought, [CONCENTRATION_TOKEN, *_TAGS]).split())
        return self._filled(self.completion).replace("{thought}", thought)


PAPER_PROMPT = PromptTemplate()
"""The paper's texts."""


def several_prompt(num_tokens: int) -> PromptTemplate:
    """The paper's texts in a form for several objects and none (the released code sketches such a template).

    Args:
        num_tokens: K, the most objects that can be told apart.
    """
    return PromptTemplate(num_tokens=num_tokens)


@dataclass(frozen=True)
class ParsedCompletion:
    """A completion taken apart.

    Attributes:
        thought: text between the think tags, stripped; empty when there is none.
        answer: what was written between the thought and the last concentration token, without tokens, stripped.
        num_tokens: number of concentration tokens.
        well_formed: exactly one non-empty thought and exactly as many concentration tokens as asked for, after it.
    """

    thought: str
    answer: str
    num_tokens: int
    well_formed: bool


def parse_completion(text: str, num_tokens: int = 1) -> ParsedCompletion:
    """Split a completion into thought, answer and tokens. Never raises: malformed text gives empty parts.

    Args:
        text: the completion.
        num_tokens: K, concentration tokens that a well-formed completion has.
    """
    thoughts = list(_THINK.finditer(text))
    count = text.count(CONCENTRATION_TOKEN)
    thought = thoughts[-1].group(1).strip() if thoughts else ""
    end = thoughts[-1].end() if thoughts else 0
    first, last = text.find(CONCENTRATION_TOKEN), text.rfind(CONCENTRATION_TOKEN)
    answer = text[end : last if last >= end else len(text)].replace(CONCENTRATION_TOKEN, "").strip()
    tags_once = text.count("<think>") == 1 and text.count("</think>") == 1
    well_formed = tags_once and len(thoughts) == 1 and bool(thought) and count == num_tokens and first >= end
    return ParsedCompletion(thought=thought, answer=answer, num_tokens=count, well_formed=well_formed)
