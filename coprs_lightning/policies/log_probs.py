"""Log-probabilities of sampled tokens without all logits in memory at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def token_log_probs(
    hidden: Tensor,
    ids: Tensor,
    head: nn.Module,
    *,
    suppressed: Tensor,
    temperature: float,
    chunk: int,
    entropy_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of the distribution that a sampler draws from.

    The vocabulary projection is computed for ``chunk`` tokens at a time and again in the backward pass: with 150,000
    words, the logits of one token take 600 kB.

    Args:
        hidden: (M, D) states that predict ``ids``.
        ids: (M,) sampled tokens.
        head: (M, D) → (M, V) logits.
        suppressed: (V,) bool, ids that are never drawn: they have no probability here either.
        temperature: of the sampler.
        chunk: tokens at a time.
        entropy_gradient: let gradients flow through the entropy too.

    Returns:
        (M,) log-probabilities and (M,) entropies in nats, float32.
    """

    def piece(states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(states).float() / temperature
        everywhere = logits.masked_fill(suppressed, -torch.inf).log_softmax(-1)
        with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
            entropy = -(everywhere.exp() * everywhere.masked_fill(suppressed, 0.0)).sum(-1)
        return everywhere.gather(-1, tokens[:, None])[:, 0], entropy

    if len(ids) <= chunk:
        return piece(hidden, ids)
    parts = []
    for states, tokens in zip(hidden.split(chunk), ids.split(chunk), strict=True):
        again = torch.is_grad_enabled()
        parts.append(checkpoint(piece, states, tokens, use_reentrant=False) if again else piece(states, tokens))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
