"""Several rewards as one."""

from __future__ import annotations

import math
import weakref

import torch
from torch import Tensor

from coprs_lightning.rl.rewards.base import Reward, RewardInputs, checked_scores
from coprs_lightning.rl.rewards.format import FormatReward
from coprs_lightning.rl.rewards.mask import MaskReward

PAPER_WEIGHTS = {"mask": 0.7, "format": 0.3}
"""The paper's mixture."""

_LOGGED_BESIDE = ("total", "std")


class WeightedSumReward(Reward):
    """Weighted sum of named rewards; every part is logged, unweighted, as ``train/reward/<name>``.

    Args:
        rewards: the parts by name; ``null`` is the paper's: ``mask`` (:class:`MaskReward`) and ``format``
            (:class:`FormatReward`).
        weights: weight of every part; ``null`` is the paper's 0.7 and 0.3. A negative weight makes a penalty of a part.

    Raises:
        ValueError: for no parts, for weights whose names differ from the parts', or that are not finite, and for a
            part's name under which something else is logged.
    """

    def __init__(self, *, rewards: dict[str, Reward] | None = None, weights: dict[str, float] | None = None) -> None:
        self.rewards: dict[str, Reward] = (
            {"mask": MaskReward(), "format": FormatReward()} if rewards is None else dict(rewards)
        )
        self.weights = dict(PAPER_WEIGHTS if weights is None else weights)
        if not self.rewards:
            raise ValueError("WeightedSumReward.rewards is empty: every completion would score 0. Name at least one.")
        if set(self.rewards) != set(self.weights):
            raise ValueError(
                f"WeightedSumReward.rewards has the parts {sorted(self.rewards)}, but WeightedSumReward.weights weighs "
                f"{sorted(self.weights)}: give every part one weight, under the same name."
            )
        for name, weight in self.weights.items():
            if name in _LOGGED_BESIDE:
                raise ValueError(
                    f"WeightedSumReward.rewards has a part named {name!r}, but train/reward/{name} is logged for the "
                    "sum. Take another name."
                )
            if not math.isfinite(weight):
                raise ValueError(f"WeightedSumReward.weights[{name!r}] must be finite, got {weight}.")
        self._last: tuple[weakref.ref[RewardInputs], dict[str, Tensor]] | None = None

    @property
    def range(self) -> tuple[float, float]:
        """See :attr:`Reward.range`: the parts' ranges, weighted."""
        ends = [sorted(self.weights[name] * end for end in reward.range) for name, reward in self.rewards.items()]
        return sum(low for low, _ in ends), sum(high for _, high in ends)

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """See :meth:`Reward.__call__`.

        Raises:
            ValueError: for a part that gives scores out of its range or of a wrong shape.
        """
        scores = self._scores(inputs)
        return torch.stack([self.weights[name] * score for name, score in scores.items()]).sum(0)

    def parts(self, inputs: RewardInputs) -> dict[str, Tensor]:
        """The unweighted scores of every part by name, and those of a part's own parts as ``<name>/<part>``."""
        found = dict(self._scores(inputs))
        for name, reward in self.rewards.items():
            found.update({f"{name}/{part}": score for part, score in reward.parts(inputs).items()})
        return found

    def _scores(self, inputs: RewardInputs) -> dict[str, Tensor]:
        # the sum and its parts are asked for one after the other; a weak reference keeps no masks in memory
        if self._last is None or self._last[0]() is not inputs:
            scores = {name: checked_scores(reward, inputs) for name, reward in self.rewards.items()}
            self._last = (weakref.ref(inputs), scores)
        return self._last[1]
