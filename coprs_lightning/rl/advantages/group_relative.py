"""Group-relative advantages, as GRPO and the paper take them."""

from __future__ import annotations

from torch import Tensor

from coprs_lightning.rl.advantages.base import AdvantageEstimator
from coprs_lightning.rl.advantages.centring import centred_in_group, check_eps


class GroupRelativeAdvantages(AdvantageEstimator):
    """``(r − mean) / (std + eps)`` over the group.

    Source: GRPO, DeepSeekMath (arXiv 2402.03300, section 4.1.2). The standard deviation is the unbiased one, as in the
    released CoPRS code. A group of equal rewards has advantages of exactly 0.

    Args:
        eps: added to the standard deviation.

    Raises:
        ValueError: for a negative ``eps``.
    """

    def __init__(self, *, eps: float = 1e-6) -> None:
        check_eps(self, eps)
        self.eps = eps

    def __call__(self, rewards: Tensor) -> Tensor:
        """See :meth:`AdvantageEstimator.__call__`."""
        centred = centred_in_group(self, rewards)
        deviation = (centred.square().sum(1, keepdim=True) / (rewards.shape[1] - 1)).sqrt()
        equal = deviation == 0
        return (centred / (deviation + self.eps).masked_fill(equal, 1.0)).float()
