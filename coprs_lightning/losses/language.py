"""Cross-entropy of written completions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def completion_cross_entropy(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy over the completion's tokens, of an example.

    Args:
        logits: (B, R, V) logits that predict ``ids``.
        ids: (B, R) completion tokens.
        mask: (B, R) bool, ``True`` on tokens that count.

    Returns:
        (B,) loss; 0 for a row without tokens.
    """
    losses = F.cross_entropy(logits.float().transpose(1, 2), ids, reduction="none")  # (B, R)
    losses = losses.masked_fill(~mask, 0.0)  # not a product: the loss of padding may be infinite
    return losses.sum(1) / mask.sum(1).clamp_min(1)
