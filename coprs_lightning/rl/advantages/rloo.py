"""Leave-one-out advantages."""

from __future__ import annotations

from torch import Tensor

from coprs_lightning.rl.advantages.base import AdvantageEstimator
from coprs_lightning.rl.advantages.centring import centred_in_group


class RLOOAdvantages(AdvantageEstimator):
    """``r − mean of the group's other rewards``.

    Source: REINFORCE Leave-One-Out (arXiv 2402.14740). A completion's baseline does not hold its own
    reward, which keeps the policy gradient unbiased. Equal to ``G / (G − 1) · (r − mean)``.
    """

    def __call__(self, rewards: Tensor) -> Tensor:
        """See :meth:`AdvantageEstimator.__call__`."""
        centred = centred_in_group(self, rewards)
        group = rewards.shape[1]
        return (centred * (group / (group - 1))).float()
