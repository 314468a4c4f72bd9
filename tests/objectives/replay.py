"""A rollout engine that writes the same completions about the same question, however a batch is split."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from coprs_lightning.rl.rollouts import RolloutEngine
from coprs_lightning.structures import Completions, Prompts

if TYPE_CHECKING:
    from coprs_lightning.policies import HFPolicy, Policy

WORDS = ("red", "blue", "circle", "square", "left", "right", "big", "small")


class ReplayRollout(RolloutEngine):
    """Completions drawn by a generator seeded with the prompt: well formed, malformed, without token, truncated."""

    def sample(self, policy: Policy, prompts: Prompts, num_generations: int) -> Completions:
        """See :meth:`RolloutEngine.sample`."""
        rows: list[list[int]] = []
        for ids, mask in zip(prompts.input_ids, prompts.attention_mask, strict=True):
            generator = random.Random(str(ids[mask].tolist()))
            rows += [_written(policy, generator) for _ in range(num_generations)]  # type: ignore[arg-type]
        width = max(len(row) for row in rows)
        ids = torch.tensor([row + [policy._end_id] * (width - len(row)) for row in rows])  # type: ignore[attr-defined]
        completions: Completions = policy._completions(ids)  # type: ignore[attr-defined]
        # the longest may lack its end: that is what truncated means
        completions.mask &= torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
        return completions


def _written(policy: HFPolicy, generator: random.Random) -> list[int]:
    thought = " ".join(generator.choices(WORDS, k=generator.randint(1, 6)))
    kind = generator.random()
    token = "" if kind < 0.2 else "<REF_POS>"
    text = f"{thought} {token}" if 0.2 <= kind < 0.4 else f"<think> {thought} </think> {token}"
    ids: list[int] = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids if kind > 0.9 else [*ids, policy._end_id]
