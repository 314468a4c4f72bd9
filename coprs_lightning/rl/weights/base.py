"""Base class of the token weights: how the loss of a token counts in the loss of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from coprs_lightning.spec import Recorded


class TokenWeights(Recorded, ABC):
    """Weights every completion token; the policy loss of a batch is the weighted sum over its tokens.

    Weights depend on the completions of their own prompt alone, so that a batch may be split between prompts (gradient
    accumulation, processes) or inside a group (micro-batches) without changing the result.
    """

    @abstractmethod
    def __call__(self, mask: Tensor) -> Tensor:
        """Weights.

        Args:
            mask: (B, G, R) bool, ``True`` on tokens of the completions.

        Returns:
            (B, G, R) float32; 0 where ``mask`` is ``False``. The mean over B prompts is already taken.
        """
