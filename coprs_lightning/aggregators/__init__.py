"""Aggregators: hidden states of the policy in, queries of the heatmap head out."""

from coprs_lightning.aggregators.attention_pool import AttentionPoolAggregator
from coprs_lightning.aggregators.base import ConcentrationAggregator
from coprs_lightning.aggregators.last_token import LastTokenAggregator

__all__ = ["AttentionPoolAggregator", "ConcentrationAggregator", "LastTokenAggregator"]
