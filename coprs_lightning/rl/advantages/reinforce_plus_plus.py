"""Advantages normalised over the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from coprs_lightning.rl.advantages.base import AdvantageEstimator
from coprs_lightning.rl.advantages.centring import NO_SPREAD, check_eps, wide


class ReinforcePlusPlusAdvantages(AdvantageEstimator):
    """``(r − mean) / (std + eps)`` over all completions of the batch, on all processes.

    Source: REINFORCE++ (arXiv 2501.03262): one baseline for all prompts, so that one completion a prompt is enough. The
    standard deviation divides by the number of completions. Two things differ from the source: the KL term stays in the
    loss instead of in the reward, and the batch is that of one rollout – with gradient accumulation every part is
    normalised by itself. Advantages are 0 only where the rewards of the whole batch are equal; a group of equal
    rewards still has the advantage of its prompt over the others.

    Every process must call it at the same time, as in training: the means are taken over all of them.

    Args:
        eps: added to the standard deviation.

    Raises:
        ValueError: for a negative ``eps``.
    """

    least_group_size = 1

    def __init__(self, *, eps: float = 1e-6) -> None:
        check_eps(self, eps)
        self.eps = eps

    def __call__(self, rewards: Tensor) -> Tensor:
        """See :meth:`AdvantageEstimator.__call__`."""
        values = wide(rewards)
        count, total = _over_processes(torch.stack([values.new_tensor(values.numel()), values.sum()]))
        centred = values - total / count
        # in two passes: the difference of two large sums would lose the digits of a small deviation
        deviation = (_over_processes(centred.square().sum()) / count).sqrt()
        scaled = centred / (deviation + self.eps)
        return torch.where(deviation < NO_SPREAD, torch.zeros_like(scaled), scaled).float()


def _over_processes(sums: Tensor) -> Tensor:
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(sums)
    return sums
