"""Advantages without the division by the standard deviation."""

from __future__ import annotations

from torch import Tensor

from coprs_lightning.rl.advantages.base import AdvantageEstimator
from coprs_lightning.rl.advantages.centring import centred_in_group


class DrGRPOAdvantages(AdvantageEstimator):
    """``r − mean`` over the group.

    Source: Dr. GRPO (arXiv 2503.20783, section 3.2): dividing by the standard deviation weighs prompts that are almost
    always or almost never solved more than the others. Their token weights go with it:
    :class:`~coprs_lightning.rl.weights.FixedLengthMean`. Advantages are smaller than GRPO's by the standard deviation
    of the rewards, so β and the learning rate may need another choice.
    """

    def __call__(self, rewards: Tensor) -> Tensor:
        """See :meth:`AdvantageEstimator.__call__`."""
        return centred_in_group(self, rewards).float()
