"""Base class of the rollout engines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from coprs_lightning.spec import Recorded
from coprs_lightning.structures import Completions, Prompts

if TYPE_CHECKING:
    from coprs_lightning.policies import Policy


class RolloutEngine(Recorded, ABC):
    """Samples completions from the policy that is being trained.

    Args:
        max_new_tokens: longest completion (the released scripts: 2 000).
        temperature: sampling temperature (the released scripts: 1).
        top_p: least probability mass sampled from; below 1, samples no longer follow the distribution whose
            log-probabilities are trained.

    Raises:
        ValueError: for options out of range.
    """

    def __init__(self, *, max_new_tokens: int = 512, temperature: float = 1.0, top_p: float = 1.0) -> None:
        if max_new_tokens < 1:
            raise ValueError(f"rollout.max_new_tokens must be ≥ 1, got {max_new_tokens}: nothing would be written.")
        if not 0 < temperature < float("inf"):
            raise ValueError(
                f"rollout.temperature must be > 0 and finite, got {temperature}: greedy decoding writes the same "
                "completion for the whole group, which has no advantages."
            )
        if not 0 < top_p <= 1:
            raise ValueError(f"rollout.top_p must be in (0, 1], got {top_p}; 1 samples from all tokens.")
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p

    @abstractmethod
    def sample(self, policy: Policy, prompts: Prompts, num_generations: int) -> Completions:
        """Sample with the weights that ``policy`` has now.

        Args:
            policy: the policy that is being trained.
            prompts: B prompts.
            num_generations: G completions a prompt.

        Returns:
            B·G completions, the G of a prompt beside each other.
        """
