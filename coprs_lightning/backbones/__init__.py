"""Image backbones: frames in, feature grids out."""

from coprs_lightning.backbones.base import ImageBackbone, Preprocessing
from coprs_lightning.backbones.cached import CachedBackbone
from coprs_lightning.backbones.hf import HFBackbone
from coprs_lightning.backbones.sam import SamBackbone, SamVisionOptions
from coprs_lightning.backbones.timm import TimmBackbone

__all__ = [
    "CachedBackbone",
    "HFBackbone",
    "ImageBackbone",
    "Preprocessing",
    "SamBackbone",
    "SamVisionOptions",
    "TimmBackbone",
]
