"""Mean over the tokens of a completion, then over completions."""

from __future__ import annotations

from torch import Tensor

from coprs_lightning.rl.weights.base import TokenWeights


class SequenceMean(TokenWeights):
    """Every completion counts alike, and its tokens share its weight: ``1 / (B · G · tokens of the completion)``.

    Source: GRPO as first published (DeepSeekMath, arXiv 2402.03300, equation 3). Among wrong completions the longer has
    the smaller gradient a token, which lets wrong completions grow (arXiv 2503.20783). A completion without any token
    counts 0, and is still one of the B·G.
    """

    def __call__(self, mask: Tensor) -> Tensor:
        """See :meth:`TokenWeights.__call__`."""
        weights = mask.float()
        prompts, group = mask.shape[:2]
        return weights / (prompts * group * weights.sum(2, keepdim=True)).clamp_min(1)
