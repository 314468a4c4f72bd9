"""Base class of the advantage estimators."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from coprs_lightning.spec import Recorded


class AdvantageEstimator(Recorded, ABC):
    """Turns the rewards of a group into advantages, broadcast to all tokens of a completion.

    Attributes:
        least_group_size: fewest completions a prompt for which the estimate is defined.
    """

    least_group_size: int = 2

    @abstractmethod
    def __call__(self, rewards: Tensor) -> Tensor:
        """Advantages.

        Args:
            rewards: (B, G) rewards of G completions of each of B prompts, float32.

        Returns:
            (B, G) advantages, float32.
        """
