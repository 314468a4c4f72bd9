"""Queries for several objects: one at each of the last K concentration tokens of a completion.

The paper describes K = 1 and its released code only sketches more. Here every token has a query, and with it a
heatmap, a mask and a confidence of its own, as the object queries of DETR (Carion et al. 2020) have; training assigns
objects to tokens (:mod:`coprs_lightning.losses.matching`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from coprs_lightning.aggregators.base import ConcentrationAggregator
from coprs_lightning.component import check_positive
from coprs_lightning.geometry import valid_mask
from coprs_lightning.structures import NO_PRIOR_LOGIT, ConcentrationQuery, PolicyOutput

MAX_PEAK = 10.0
"""Heatmap logits beyond it say nothing more."""


def last_tokens_positions(output: PolicyOutput, count: int) -> tuple[Tensor, Tensor]:
    """Where the last ``count`` concentration tokens of each completion are, in the order they were written.

    Returns:
        (B, count) int64 columns, 0 where there is no such token, and (B, count) bool whether there is one. A completion
        with fewer tokens has its first slots filled.
    """
    tokens = output.token_mask & output.completion_mask
    order = tokens.cumsum(1)  # 1 at the first token, 2 at the second …
    total = order[:, -1:]
    slots = torch.arange(count, device=tokens.device)
    wanted = slots + 1 + (total - count).clamp_min(0)  # (B, count)
    hits = tokens[:, None] & (order[:, None] == wanted[..., None])  # (B, count, T)
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    return (hits * columns).amax(2), hits.any(2)


class MultiTokenAggregator(ConcentrationAggregator):
    """Query k is the state at the k-th of the last K concentration tokens plus a learned embedding of slot k.

    Tokens in a row are the same word, and yet their states differ, since each one sees those before it; in a policy at
    its start that difference is small. The embeddings tell the slots apart from the first step.

    The confidence of a slot is linear in the state, with a bias a slot, and in the peak of the slot's heatmap: what the
    policy says, and what the image shows. Through the peak it teaches the heatmap of a slot without an object to be
    empty, which no other loss does. With the default start every slot counts at first, as if there were no
    confidence (1 − 0.5 · 1.8 = 0.1 over an even heatmap of heads that start at −1.8, a probability of 0.52).

    Args:
        num_tokens: K; linked from the policy's prompt, not typed.
        confidence_bias: first bias of every confidence logit.
        evidence: first weight of the greatest heatmap logit in it.
        kwargs: see :class:`~coprs_lightning.aggregators.base.ConcentrationAggregator`.
    """

    def __init__(self, *, num_tokens: int, confidence_bias: float = 1.0, evidence: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(self, num_tokens=num_tokens)
        self.num_tokens = num_tokens
        self.query_dim = self.hidden_size
        self.slots = nn.Parameter(torch.randn(num_tokens, self.hidden_size) * 0.1)
        self.confidence = nn.Linear(self.hidden_size, 1, bias=False)
        self.confidence_bias = nn.Parameter(torch.full((num_tokens,), float(confidence_bias)))
        self.evidence = nn.Parameter(torch.tensor(float(evidence)))

    def forward(self, output: PolicyOutput) -> ConcentrationQuery:
        """See :meth:`ConcentrationAggregator.forward`; with ``confidence_logits``."""
        self.check_hidden(output)
        position, present = last_tokens_positions(output, self.num_tokens)
        rows = torch.arange(len(position), device=position.device)[:, None]
        # states of padding may be NaN
        state = torch.where(present[..., None], output.hidden[rows, position], 0.0)  # (B, K, D)
        state = self.prepared(state, present)
        query = torch.where(present[..., None], state + self.slots, 0.0)
        confidence = self.confidence(state)[..., 0] + self.confidence_bias
        return ConcentrationQuery(query, present, torch.where(present, confidence, 0.0))

    def confidence_with(
        self, concentration: ConcentrationQuery, heatmap_logits: Tensor, valid_sizes: Tensor, frame: int
    ) -> Tensor | None:
        """See :meth:`ConcentrationAggregator.confidence_with`; the peak is sought where there is image."""
        spoken = concentration.confidence_logits
        assert spoken is not None  # forward() gives them
        inside = valid_mask(valid_sizes, (heatmap_logits.shape[-2], heatmap_logits.shape[-1]), frame)
        peak = heatmap_logits.masked_fill(~inside, NO_PRIOR_LOGIT).flatten(2).amax(2).clamp(-MAX_PEAK, MAX_PEAK)
        return torch.where(concentration.present, spoken + self.evidence * peak, 0.0)

    def prepared(self, state: Tensor, present: Tensor) -> Tensor:
        """States (B, K, D) as queries and confidences read them; zeros where not ``present`` (B, K)."""
        return state


class StandardisedMultiTokenAggregator(MultiTokenAggregator):
    """The same over states with mean 0 and deviation 1 in every channel, slot by slot over the batch.

    For policies that are trained from random weights, see
    :class:`~coprs_lightning.aggregators.standardised_token.StandardisedTokenAggregator`. What all states of a slot have
    in common goes, too; the slot's embedding stands for it.

    Args:
        momentum: how fast the running statistics follow the batches.
        kwargs: see :class:`MultiTokenAggregator`.
    """

    def __init__(self, *, momentum: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(self.hidden_size, momentum=momentum, affine=False) for _ in range(self.num_tokens)
        )

    def prepared(self, state: Tensor, present: Tensor) -> Tensor:
        """See :meth:`MultiTokenAggregator.prepared`; rows without a token leave the statistics alone."""
        slots = []
        for number, norm in enumerate(self.norms):
            assert isinstance(norm, nn.BatchNorm1d)
            assert isinstance(norm, nn.BatchNorm1d)
            rows = present[:, number]
            own = state[:, number][rows]  # (N, D)
            if len(own) == 1 and self.training:  # one row has no deviation: use the running statistics
                own = batch_norm(own, norm.running_mean, norm.running_var, eps=norm.eps)
            elif len(own):
                own = norm(own)
            slots.append(torch.zeros_like(state[:, number]).masked_scatter(rows[:, None], own.to(state.dtype)))
        return torch.stack(slots, 1)
