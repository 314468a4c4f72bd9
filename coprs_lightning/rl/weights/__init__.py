"""Token weights: how the loss of a token counts in the loss of a batch."""

from coprs_lightning.rl.weights.base import TokenWeights
from coprs_lightning.rl.weights.fixed_length import FixedLengthMean
from coprs_lightning.rl.weights.group_token import GroupTokenMean
from coprs_lightning.rl.weights.sequence import SequenceMean

__all__ = ["FixedLengthMean", "GroupTokenMean", "SequenceMean", "TokenWeights"]
