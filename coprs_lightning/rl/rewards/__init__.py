"""Rewards: a score for every completion, from its text and its mask."""

from coprs_lightning.rl.rewards.base import Reward, RewardInputs, checked_scores
from coprs_lightning.rl.rewards.format import FormatReward
from coprs_lightning.rl.rewards.mask import MaskReward
from coprs_lightning.rl.rewards.weighted_sum import WeightedSumReward

__all__ = ["FormatReward", "MaskReward", "Reward", "RewardInputs", "WeightedSumReward", "checked_scores"]
