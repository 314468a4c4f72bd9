"""The paper's query, standardised over the batch: for policies that are trained from random weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from coprs_lightning.aggregators.last_token import LastTokenAggregator
from coprs_lightning.structures import ConcentrationQuery, PolicyOutput


class StandardisedTokenAggregator(LastTokenAggregator):
    """The last concentration token's state, with mean 0 and deviation 1 in every channel over the batch.

    What follows the token is nearly always the end of the sequence, so the policy's language loss pulls all its states
    towards one direction, and what differs between questions is a small part of them. In a policy with random weights
    that part is too small to learn from at first; batch normalisation brings it out (running statistics in evaluation).

    Args:
        momentum: how fast the running statistics follow the batches.
        kwargs: see :class:`~coprs_lightning.aggregators.base.ConcentrationAggregator`.
    """

    def __init__(self, *, momentum: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = nn.BatchNorm1d(self.query_dim, momentum=momentum)

    def forward(self, output: PolicyOutput) -> ConcentrationQuery:
        """See :meth:`ConcentrationAggregator.forward`; rows without a token leave the statistics alone."""
        concentration = super().forward(output)
        present = concentration.present
        rows = concentration.query[present]  # (N, D)
        if len(rows) == 1 and self.training:
            # one row has no deviation: use the running statistics
            norm = nn.functional.batch_norm(
                rows, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias, eps=self.norm.eps
            )
        else:
            norm = self.norm(rows) if len(rows) else rows
        query = concentration.query.clone()
        query[present] = norm.to(query.dtype)
        return ConcentrationQuery(query, present)
