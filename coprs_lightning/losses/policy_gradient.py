"""Losses of reinforcement, a value for every completion token: clipped policy loss and KL to the reference policy.

Shape legend: N completions, R tokens. Values on padding are to be left out by the caller's token weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MAX_DIFFERENCE = 20.0
"""Largest difference of log-probabilities that is exponentiated: beyond it, exp overflows in the end."""


def clipped_policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, epsilon_low: float, epsilon_high: float
) -> tuple[Tensor, Tensor]:
    """Clipped surrogate ``−min(ρ·A, clip(ρ, 1 − ε_low, 1 + ε_high)·A)`` with the ratio ``ρ = π / π_old``.

    Source: PPO (arXiv 1707.06347, equation 7), taken over by GRPO. At ρ = 1 the gradient is ``−A·∇ log π``.

    Args:
        log_probs: (N, R) log-probabilities under the policy that learns.
        old_log_probs: (N, R) under the policy that sampled, no graph.
        advantages: (N,) of the completions.
        epsilon_low: how far the ratio may fall below 1.
        epsilon_high: how far it may rise above 1.

    Returns:
        (N, R) losses, and (N, R) bool: the clip is active and the token has no gradient.
    """
    ratio = (log_probs - old_log_probs).clamp(-_MAX_DIFFERENCE, _MAX_DIFFERENCE).exp()
    advantage = advantages[:, None]
    bounded = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    losses = -torch.minimum(ratio * advantage, bounded * advantage)
    too_high = (ratio > 1 + epsilon_high) & (advantage > 0)
    too_low = (ratio < 1 - epsilon_low) & (advantage < 0)
    return losses, too_high | too_low


def k3_kl(log_probs: Tensor, ref_log_probs: Tensor, limit: float = 10.0) -> Tensor:
    """Estimate of KL(π ‖ π_ref) from the sampled tokens: ``exp(d) − d − 1`` with ``d = log π_ref − log π``.

    Schulman's "k3" (http://joschu.net/blog/kl-approx.html; ``low_var_kl`` in the released code): unbiased for tokens
    sampled from π, and never negative, so that the released code's clamp to [−limit, limit] binds above alone.

    Args:
        log_probs: (N, R) log-probabilities under the policy.
        ref_log_probs: (N, R) under the reference policy.
        limit: greatest value; a token beyond it has no gradient.

    Returns:
        (N, R) values ≥ 0.
    """
    difference = (ref_log_probs - log_probs).clamp(-_MAX_DIFFERENCE, _MAX_DIFFERENCE)
    # expm1 keeps the digits of a small difference, where exp(d) − 1 rounds to noise
    return (torch.expm1(difference) - difference).clamp(0.0, limit)
