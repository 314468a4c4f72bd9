"""Mean over the tokens of a group."""

from __future__ import annotations

from torch import Tensor

from coprs_lightning.rl.weights.base import TokenWeights


class GroupTokenMean(TokenWeights):
    """Every token of a prompt's completions counts alike: ``1 / (B · tokens of the group)``.

    The released CoPRS code takes the mean over the tokens of a micro-batch, which is this where a micro-batch is one
    group. A long completion has more weight than a short one of its group. A prompt without any token counts 0, and is
    still one of the B.
    """

    def __call__(self, mask: Tensor) -> Tensor:
        """See :meth:`TokenWeights.__call__`."""
        weights = mask.float()
        return weights / (len(mask) * weights.sum((1, 2), keepdim=True)).clamp_min(1)
