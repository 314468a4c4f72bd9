"""Base class of the concentration-token aggregators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from coprs_lightning.component import Component, check_positive
from coprs_lightning.structures import ConcentrationQuery, PolicyOutput


class ConcentrationAggregator(Component, ABC):
    """Makes the query of the heatmap head from the policy's hidden states.

    Attributes:
        query_dim: Dq of the query; the heatmap head reads it.
        num_tokens: K queries per example.

    Args:
        hidden_size: D of the policy's hidden states; linked from the policy, not typed.
        kwargs: see :class:`~coprs_lightning.component.Component`.
    """

    query_dim: int
    num_tokens: int = 1

    def __init__(self, *, hidden_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(self, hidden_size=hidden_size)
        self.hidden_size = hidden_size

    @abstractmethod
    def forward(self, output: PolicyOutput) -> ConcentrationQuery:
        """Aggregate the hidden states of one pass.

        Args:
            output: hidden states (B, T, D) and masks of the policy.

        Returns:
            query (B, K, Dq) and ``present`` (B, K); a completion without the token is *not present*.
        """

    def confidence_with(
        self, concentration: ConcentrationQuery, heatmap_logits: Tensor, valid_sizes: Tensor, frame: int
    ) -> Tensor | None:
        """Confidences of the slots once their heatmaps are known; by default those that the states alone gave.

        Args:
            concentration: what :meth:`forward` gave for N completions.
            heatmap_logits: (N, K, H', W').
            valid_sizes: (N, 2) valid height and width in frame pixels.
            frame: side S of the frames.

        Returns:
            (N, K) logits, 0 where not present; ``None`` without confidences.
        """
        return concentration.confidence_logits

    def check_hidden(self, output: PolicyOutput) -> None:
        """Refuse hidden states of another size than declared."""
        if output.hidden.shape[-1] != self.hidden_size:
            raise ValueError(
                f"{type(self).__name__} was built for hidden_size {self.hidden_size} and got hidden states of "
                f"{output.hidden.shape[-1]}. Leave model.aggregator.init_args.hidden_size out: it follows the policy."
            )
