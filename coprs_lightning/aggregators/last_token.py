"""The paper's query: the hidden state of the last concentration token (paper section 3)."""

from __future__ import annotations

from typing import Any

import torch

from coprs_lightning.aggregators.base import ConcentrationAggregator
from coprs_lightning.structures import ConcentrationQuery, PolicyOutput


def last_token_positions(output: PolicyOutput) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the last concentration token of each completion is.

    A token of the prompt never counts: the prompt template may spell it, and its state knows nothing of the reasoning.

    Returns:
        (B,) int64 column of the token, 0 where there is none, and (B,) bool whether there is one.
    """
    tokens = output.token_mask & output.completion_mask
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    return (tokens * columns).amax(1), tokens.any(1)


class LastTokenAggregator(ConcentrationAggregator):
    """Takes the last-layer hidden state at the last concentration token of the completion; no parameters.

    Args:
        kwargs: ``hidden_size`` and what :class:`~coprs_lightning.component.Component` takes.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.query_dim = self.hidden_size

    def forward(self, output: PolicyOutput) -> ConcentrationQuery:
        """See :meth:`ConcentrationAggregator.forward`."""
        self.check_hidden(output)
        position, present = last_token_positions(output)
        rows = torch.arange(len(position), device=position.device)
        state = output.hidden[rows, position]
        state = torch.where(present[:, None], state, torch.zeros_like(state))
        return ConcentrationQuery(state[:, None], present[:, None])
