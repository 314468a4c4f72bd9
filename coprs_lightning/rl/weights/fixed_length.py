"""Sum over tokens, divided by a constant."""

from __future__ import annotations

from torch import Tensor

from coprs_lightning.rl.weights.base import TokenWeights


class FixedLengthMean(TokenWeights):
    """Every token of the batch counts alike, whatever the lengths: ``1 / (B · G · length)``.

    Source: Dr. GRPO (arXiv 2503.20783, section 3.2), which removes the length bias of
    :class:`~coprs_lightning.rl.weights.SequenceMean`.

    Args:
        length: tokens that a completion is divided by; the rollout's ``max_new_tokens`` is usual. It scales policy loss
            and KL against the segmentation loss.

    Raises:
        ValueError: for a length below 1.
    """

    def __init__(self, *, length: int) -> None:
        if length < 1:
            raise ValueError(
                f"FixedLengthMean.length must be ≥ 1, got {length}: sums over tokens are divided by it. Give the "
                "rollout's max_new_tokens."
            )
        self.length = length

    def __call__(self, mask: Tensor) -> Tensor:
        """See :meth:`TokenWeights.__call__`."""
        prompts, group = mask.shape[:2]
        return mask.float() / (prompts * group * self.length)
