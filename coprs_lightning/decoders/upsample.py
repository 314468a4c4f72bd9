"""No decoder: the heatmap is the mask (the paper's "prior only" reading)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from coprs_lightning.decoders.base import MaskDecoder


class UpsampleDecoder(MaskDecoder):
    """Resizes the heatmap logits to the mask's size; no parameters. Measures what a decoder adds."""

    def forward(self, features: Tensor, heatmap_logits: Tensor, valid_sizes: Tensor, frame: int) -> Tensor:
        """See :meth:`MaskDecoder.forward`."""
        self.check_inputs(features, heatmap_logits)
        size = (4 * features.shape[-2], 4 * features.shape[-1])
        if tuple(heatmap_logits.shape[-2:]) == size:
            return heatmap_logits
        return F.interpolate(heatmap_logits, size, mode="bilinear", align_corners=False)
