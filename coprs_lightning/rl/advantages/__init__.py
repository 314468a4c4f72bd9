"""Advantage estimators: rewards of a group → how much better than the others a completion is."""

from coprs_lightning.rl.advantages.base import AdvantageEstimator
from coprs_lightning.rl.advantages.dr_grpo import DrGRPOAdvantages
from coprs_lightning.rl.advantages.group_relative import GroupRelativeAdvantages
from coprs_lightning.rl.advantages.reinforce_plus_plus import ReinforcePlusPlusAdvantages
from coprs_lightning.rl.advantages.rloo import RLOOAdvantages

__all__ = [
    "AdvantageEstimator",
    "DrGRPOAdvantages",
    "GroupRelativeAdvantages",
    "RLOOAdvantages",
    "ReinforcePlusPlusAdvantages",
]
