"""What reinforcement logs; every key is explained in ``docs/metrics.md``."""

from __future__ import annotations

from torch import Tensor

from coprs_lightning.objectives.grpo_rollout import Scores
from coprs_lightning.structures import Completions, TokenLogProbs


def rollout_logs(completions: Completions, scores: Scores) -> dict[str, Tensor]:
    """Of the rewards and of the completions."""
    rewards, record = scores.rewards, scores.record
    lengths = record.lengths.float()
    spread = rewards.amax(1) - rewards.amin(1)
    deviation = rewards.std(1) if rewards.shape[1] > 1 else rewards.new_zeros(len(rewards))
    return {
        "reward/total": rewards.mean(),
        **{f"reward/{name}": value.mean() for name, value in scores.parts.items()},
        "reward/std": deviation.mean(),
        "frac_reward_zero_std": (spread < 1e-6).float().mean(),
        "advantage/abs_mean": scores.advantages.abs().mean(),
        "completions/mean_length": lengths.mean(),
        "completions/max_length": lengths.amax(),
        "completions/truncated_fraction": completions.truncated.float().mean(),
        "completions/malformed_fraction": 1 - record.well_formed.float().mean(),
        "completions/token_rate": record.present.float().mean(),
    }


def token_logs(
    tokens: TokenLogProbs, old: Tensor, kl: Tensor, clipped: Tensor, mask: Tensor, total: Tensor
) -> dict[str, Tensor]:
    """Of a piece's tokens: plain means over all tokens of the rollout, so that pieces add up; ``…_max`` are maxima.

    Args:
        tokens: log-probabilities and entropies (n, R).
        old: (n, R) log-probabilities under the policy that sampled.
        kl: (n, R).
        clipped: (n, R) bool.
        mask: (n, R) bool, real tokens.
        total: number of real tokens of the whole rollout.
    """
    ratio = (tokens.log_probs - old).exp()[mask]
    return {
        "kl": kl[mask].sum() / total,
        "entropy": tokens.entropy[mask].sum() / total,
        "clip_ratio": clipped[mask].sum() / total,
        "ratio_max": ratio.amax() if ratio.numel() else old.new_ones(()),
    }
