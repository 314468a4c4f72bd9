"""Reward for keeping to the asked format (paper section 3, rewards)."""

from __future__ import annotations

import torch
from torch import Tensor

from coprs_lightning.prompts import parse_completion
from coprs_lightning.rl.rewards.base import Reward, RewardInputs


class FormatReward(Reward):
    """0, ``demoted`` or 1, by text alone.

    0 unless there is exactly one non-empty ``<think> … </think>`` and exactly one concentration token, after it – or as
    many as the prompt asks for – (the completions that ``train/completions/malformed_fraction`` counts; a stray second
    tag is malformed, too). ``demoted`` where the thought is too long, where anything but space comes before it, or
    where too many words come between it and the (last) token; else 1. What follows the token is not looked at, as in
    the released code.

    Args:
        max_thought_characters: longest thought that is not demoted, its outer spaces included.
        max_answer_words: most words between thought and token.
        demoted: score of what is well formed but too long.

    Raises:
        ValueError: for a score outside [0, 1] or a negative limit.
    """

    def __init__(self, *, max_thought_characters: int = 2048, max_answer_words: int = 10, demoted: float = 0.9) -> None:
        if not 0 <= demoted <= 1:
            raise ValueError(
                f"FormatReward.demoted must lie in [0, 1], got {demoted}: malformed scores 0 and well formed 1, and "
                "too long lies between."
            )
        limits = {"max_thought_characters": max_thought_characters, "max_answer_words": max_answer_words}
        for name, limit in limits.items():
            if limit < 0:
                raise ValueError(f"FormatReward.{name} must be ≥ 0, got {limit}: every completion would be demoted.")
        self.max_thought_characters = max_thought_characters
        self.max_answer_words = max_answer_words
        self.demoted = demoted

    @property
    def range(self) -> tuple[float, float]:
        """See :attr:`Reward.range`."""
        return 0.0, 1.0

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """See :meth:`Reward.__call__`."""
        scores = [self.score(text, inputs.num_tokens) for text in inputs.texts]
        return torch.tensor(scores, dtype=torch.float32, device=inputs.masks.device)

    def score(self, text: str, num_tokens: int = 1) -> float:
        """Score of one completion that was asked to have ``num_tokens`` concentration tokens."""
        parsed = parse_completion(text, num_tokens)
        if not parsed.well_formed:
            return 0.0
        before, _, rest = text.partition("<think>")
        thought, _, _ = rest.partition("</think>")  # parsed.thought has lost its outer spaces
        too_long = len(thought) > self.max_thought_characters or len(parsed.answer.split()) > self.max_answer_words
        return self.demoted if too_long or before.strip() else 1.0
