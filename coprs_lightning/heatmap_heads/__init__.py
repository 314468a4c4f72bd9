"""Heatmap heads: a query and image features in, the logits of the positional prior out."""

from coprs_lightning.heatmap_heads.base import HeatmapHead
from coprs_lightning.heatmap_heads.cosine import CosineHead
from coprs_lightning.heatmap_heads.cross_attention import CrossAttentionHead, LinearFuseCrossAttentionHead
from coprs_lightning.heatmap_heads.film import FiLMHead

__all__ = ["CosineHead", "CrossAttentionHead", "FiLMHead", "HeatmapHead", "LinearFuseCrossAttentionHead"]
