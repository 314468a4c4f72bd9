"""Rollout engines: how completions are sampled from the policy that is being trained."""

from coprs_lightning.rl.rollouts.base import RolloutEngine
from coprs_lightning.rl.rollouts.transformers import GenerateRollout, TransformersRollout

__all__ = ["GenerateRollout", "RolloutEngine", "TransformersRollout"]
