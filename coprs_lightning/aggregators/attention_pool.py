"""A query that pools what the policy saw and thought, instead of the concentration token's state alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coprs_lightning.aggregators.base import ConcentrationAggregator
from coprs_lightning.aggregators.last_token import last_token_positions
from coprs_lightning.component import check_positive
from coprs_lightning.structures import ConcentrationQuery, PolicyOutput


class AttentionPoolAggregator(ConcentrationAggregator):
    """One attention layer from the last concentration token over image tokens and the thought up to that token.

    query = norm(s + attend(s + learnable query → image tokens, completion tokens up to the concentration token)), with
    s the token's state; then a projection where ``query_dim`` asks for another width.

    Args:
        num_heads: attention heads.
        query_dim: Dq of the query; ``null`` keeps the hidden size.
        kwargs: see :class:`~coprs_lightning.aggregators.base.ConcentrationAggregator`.

    Raises:
        ValueError: when ``num_heads`` does not divide ``hidden_size``.
    """

    def __init__(self, *, num_heads: int = 4, query_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.query_dim = self.hidden_size if query_dim is None else query_dim
        check_positive(self, num_heads=num_heads, query_dim=self.query_dim)
        size = self.hidden_size
        if size % num_heads:
            raise ValueError(
                f"AttentionPoolAggregator.num_heads {num_heads} does not divide the policy's hidden_size {size}: heads "
                "need equal width."
            )
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.randn(size) * 0.02)
        self.q_proj = nn.Linear(size, size)
        # no bias: it would shift all scores alike, which the softmax takes out again
        self.k_proj = nn.Linear(size, size, bias=False)
        self.v_proj = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)
        self.project = nn.Identity() if self.query_dim == size else nn.Linear(size, self.query_dim)

    def forward(self, output: PolicyOutput) -> ConcentrationQuery:
        """See :meth:`ConcentrationAggregator.forward`."""
        self.check_hidden(output)
        position, present = last_token_positions(output)
        columns = torch.arange(output.hidden.shape[1], device=position.device)
        thought = output.completion_mask & (columns <= position[:, None])
        allowed = (output.image_mask | thought) & output.attention_mask & present[:, None]
        # padding may hold NaN after fully masked attention, and 0 · NaN is NaN; rows without a token attend over zeros
        hidden = output.hidden.masked_fill(~allowed[..., None], 0)
        rows = torch.arange(len(position), device=position.device)
        state = hidden[rows, position]
        pooled = self._attend(state + self.query, hidden, allowed | ~present[:, None])
        query = self.project(self.norm(state + pooled))
        query = torch.where(present[:, None], query, torch.zeros_like(query))
        return ConcentrationQuery(query[:, None], present[:, None])

    def _attend(self, query: Tensor, hidden: Tensor, allowed: Tensor) -> Tensor:
        """Multi-head attention of (B, D) queries over (B, T, D) states; (B, D)."""

        def heads(states: Tensor) -> Tensor:
            return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, n, T, d)

        attended = F.scaled_dot_product_attention(
            heads(self.q_proj(query)[:, None]),
            heads(self.k_proj(hidden)),
            heads(self.v_proj(hidden)),
            attn_mask=allowed[:, None, None],
        )
        pooled: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2)[:, 0])
        return pooled
