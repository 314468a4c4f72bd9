"""Scores that would spoil training are refused."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from coprs_lightning.rl.rewards import FormatReward, Reward, RewardInputs, checked_scores
from tests.rl.rewards.inputs import GOOD, reward_inputs


class Fixed(Reward):
    """Gives the scores it is told to."""

    def __init__(self, *, scores: list[float]) -> None:
        self.scores = scores

    @property
    def range(self) -> tuple[float, float]:
        return -1.0, 1.0

    def __call__(self, inputs: RewardInputs) -> Tensor:
        return torch.tensor(self.scores, dtype=torch.float64, requires_grad=True)


def test_good_scores_pass_as_float_without_graph() -> None:
    scores = checked_scores(Fixed(scores=[-1.0, 1.00005]), reward_inputs(["a", "b"]))
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    assert scores.tolist() == pytest.approx([-1.0, 1.00005])


@pytest.mark.parametrize("scores", [[0.5], [0.5, 0.5, 0.5], [[0.5], [0.5]]])
def test_one_score_a_completion(scores: list[float]) -> None:
    with pytest.raises(ValueError, match=r"Fixed gave scores of shape \(.*\) for 2 completions: advantages need one"):
        checked_scores(Fixed(scores=scores), reward_inputs(["a", "b"]))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), 1.1, -1.001])
def test_scores_outside_the_range_name_the_completion(wrong: float) -> None:
    text = f"Fixed gave {torch.tensor(wrong).item()} for the completion 'b', outside its range [-1.0, 1.0]"
    with pytest.raises(ValueError, match=re.escape(text)):
        checked_scores(Fixed(scores=[0.0, wrong]), reward_inputs(["a", "b"]))


def test_a_reward_logs_no_parts_unless_it_says_so() -> None:
    assert FormatReward().parts(reward_inputs([GOOD])) == {}
