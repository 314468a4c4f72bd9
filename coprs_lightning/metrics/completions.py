"""How well completions keep to the asked format (what the paper rewards as format), and how long they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from coprs_lightning.prompts import parse_completion


class CompletionRates(Metric):
    """Shares of completions that are well-formed, have a concentration token, are cut; and their mean length.

    Integer sums: exact under any number of processes.

    Args:
        kwargs: see :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False

    examples: Tensor
    well_formed: Tensor
    with_token: Tensor
    tokens: Tensor
    cut: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("examples", "well_formed", "with_token", "tokens", "cut"):
            self.add_state(name, default=torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, texts: Sequence[str], present: Tensor, mask: Tensor, truncated: Tensor) -> None:
        """Add a batch of completions.

        Args:
            texts: B completions.
            present: (B, K) bool, which concentration tokens the completion has; K are asked for.
            mask: (B, R) bool, ``True`` on real tokens.
            truncated: (B,) bool, ``True`` where the length limit came before the end-of-sequence token.
        """
        self.examples += len(texts)
        self.well_formed += sum(parse_completion(text, present.shape[1]).well_formed for text in texts)
        self.with_token += present.any(dim=1).sum()
        self.tokens += mask.sum()
        self.cut += truncated.to(self.cut.device).sum()

    def compute(self) -> dict[str, Tensor]:
        """Float64 scalars on the CPU, NaN without examples.

        Returns:
            ``format_rate``, ``token_rate`` and ``truncated_rate`` in [0, 1], ``completion_length`` in tokens.
        """
        examples = int(self.examples)
        sums = {
            "format_rate": self.well_formed,
            "token_rate": self.with_token,
            "truncated_rate": self.cut,
            "completion_length": self.tokens,
        }
        return {
            name: torch.tensor(int(total) / examples if examples else math.nan, dtype=torch.float64)
            for name, total in sums.items()
        }
