"""Mask decoders: features and heatmap logits in, mask logits out."""

from coprs_lightning.decoders.base import MaskDecoder
from coprs_lightning.decoders.conv import ConvMaskDecoder
from coprs_lightning.decoders.sam import SamMaskDecoder
from coprs_lightning.decoders.upsample import UpsampleDecoder

__all__ = ["ConvMaskDecoder", "MaskDecoder", "SamMaskDecoder", "UpsampleDecoder"]
