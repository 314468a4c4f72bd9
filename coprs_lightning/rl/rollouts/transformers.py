"""Rollouts by the policy itself: always with the weights that are being trained, and nothing to synchronise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coprs_lightning.rl.rollouts.base import RolloutEngine
from coprs_lightning.structures import Completions, Prompts

if TYPE_CHECKING:
    from coprs_lightning.policies import Policy


class TransformersRollout(RolloutEngine):
    """One prefill a prompt: image and prompt are encoded once, and all G completions share their keys and values."""

    def sample(self, policy: Policy, prompts: Prompts, num_generations: int) -> Completions:
        """See :meth:`RolloutEngine.sample`."""
        return policy.sample(
            prompts,
            num_generations=num_generations,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
        )


class GenerateRollout(RolloutEngine):
    """The ``generate`` of transformers, which encodes the prompt for each completion.

    Slower than :class:`TransformersRollout`; for attention kernels that take no mask, and to compare with.
    """

    def sample(self, policy: Policy, prompts: Prompts, num_generations: int) -> Completions:
        """See :meth:`RolloutEngine.sample`."""
        return policy.generate(
            prompts,
            num_generations=num_generations,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
        )
