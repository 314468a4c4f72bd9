"""Aggregators: hidden states of the policy → query of the heatmap head."""

from coprs_lightning.aggregators.attention_pool import AttentionPoolAggregator
from coprs_lightning.aggregators.base import ConcentrationAggregator
from coprs_lightning.aggregators.last_token import LastTokenAggregator
from coprs_lightning.aggregators.multi_token import MultiTokenAggregator, StandardisedMultiTokenAggregator
from coprs_lightning.aggregators.standardised_token import StandardisedTokenAggregator

__all__ = [
    "AttentionPoolAggregator",
    "ConcentrationAggregator",
    "LastTokenAggregator",
    "MultiTokenAggregator",
    "StandardisedMultiTokenAggregator",
    "StandardisedTokenAggregator",
]
