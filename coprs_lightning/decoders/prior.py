"""What decoders do to the heatmap before they use it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from coprs_lightning.geometry import valid_mask
from coprs_lightning.structures import NO_PRIOR_LOGIT


def masked_prior(heatmap_logits: Tensor, size: tuple[int, int], valid_sizes: Tensor, frame: int) -> Tensor:
    """Resize heatmap logits and set them to "nothing here" on the padding of the frame.

    The head's own logits stay as they are: losses and metrics of the heatmap use those.

    Args:
        heatmap_logits: (B, K, H', W') over the whole frame.
        size: (h, w) of the result.
        valid_sizes: (B, 2) valid height and width in frame pixels.
        frame: side S of the frame.

    Returns:
        (B, K, h, w) logits, ``NO_PRIOR_LOGIT`` on padding.
    """
    if tuple(heatmap_logits.shape[-2:]) != size:
        heatmap_logits = F.interpolate(heatmap_logits, size, mode="bilinear", align_corners=False)
    return heatmap_logits.masked_fill(~valid_mask(valid_sizes, size, frame), NO_PRIOR_LOGIT)
