"""Mask decoders: features and heatmap logits in, mask logits out."""

from coprs_lightning.decoders.base import MaskDecoder
from coprs_lightning.decoders.sam import SamMaskDecoder

__all__ = ["MaskDecoder", "SamMaskDecoder"]
