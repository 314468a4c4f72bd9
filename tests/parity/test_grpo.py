"""Advantages, clipped loss, KL and token weights against a loop written from the equations, and splits of the batch."""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from coprs_lightning.losses.policy_gradient import clipped_policy_loss, k3_kl
from coprs_lightning.rl.advantages import (
    AdvantageEstimator,
    DrGRPOAdvantages,
    GroupRelativeAdvantages,
    ReinforcePlusPlusAdvantages,
    RLOOAdvantages,
)
from coprs_lightning.rl.weights import FixedLengthMean, GroupTokenMean, SequenceMean, TokenWeights

PROMPTS, GROUP, TOKENS = 3, 4, 7
LOW, HIGH, BETA, LENGTH = 0.2, 0.28, 0.2, 10


class Case(NamedTuple):
    """Of PROMPTS · GROUP completions: log-probabilities far enough apart that every branch is taken."""

    log_probs: Tensor
    old: Tensor
    ref: Tensor
    mask: Tensor
    rewards: Tensor


def case() -> Case:
    rows = PROMPTS * GROUP
    log_probs = (-3 * torch.rand(rows, TOKENS)).double()
    old, ref = log_probs + 0.4 * torch.randn(rows, TOKENS), log_probs + torch.randn(rows, TOKENS)
    lengths = torch.randint(1, TOKENS + 1, (rows, 1))
    rewards = torch.rand(PROMPTS, GROUP).double()
    rewards[1] = 0.5  # a group without signal
    return Case(log_probs, old, ref, torch.arange(TOKENS) < lengths, rewards)


def computed(data: Case, estimate: AdvantageEstimator, weigh: TokenWeights) -> Tensor:
    """The loss as training composes it."""
    advantages = estimate(data.rewards).flatten()
    weights = weigh(data.mask.view(*data.rewards.shape, -1)).flatten(0, 1)
    losses, _ = clipped_policy_loss(data.log_probs, data.old, advantages, LOW, HIGH)
    return (weights * (losses + BETA * k3_kl(data.log_probs, data.ref))).sum()


def advantage(rewards: list[list[float]], b: int, g: int, kind: type) -> float:
    r, group, others = rewards[b][g], rewards[b], rewards[b][:g] + rewards[b][g + 1 :]
    every = [value for row in rewards for value in row]
    return {
        GroupRelativeAdvantages: (r - statistics.mean(group)) / (statistics.stdev(group) + 1e-6),
        DrGRPOAdvantages: r - statistics.mean(group),
        RLOOAdvantages: r - statistics.mean(others),
        ReinforcePlusPlusAdvantages: (r - statistics.mean(every)) / (statistics.pstdev(every) + 1e-6),
    }[kind]


def divisor(lengths: list[int], g: int, kind: type) -> float:
    sizes = {GroupTokenMean: sum(lengths), SequenceMean: GROUP * lengths[g], FixedLengthMean: GROUP * LENGTH}
    return sizes[kind] * PROMPTS


def looped(data: Case, estimate: AdvantageEstimator, weigh: TokenWeights) -> float:
    total, rewards = 0.0, data.rewards.tolist()
    for b in range(PROMPTS):
        lengths = [int(data.mask[b * GROUP + g].sum()) for g in range(GROUP)]
        for g in range(GROUP):
            row, a = b * GROUP + g, advantage(rewards, b, g, type(estimate))
            for t in range(lengths[g]):
                now, old, ref = (float(values[row, t]) for values in (data.log_probs, data.old, data.ref))
                ratio = math.exp(now - old)
                surrogate = min(ratio * a, min(max(ratio, 1 - LOW), 1 + HIGH) * a)
                kl = math.exp(ref - now) - (ref - now) - 1
                total += (-surrogate + BETA * kl) / divisor(lengths, g, type(weigh))
    return total


ESTIMATORS = [GroupRelativeAdvantages(), DrGRPOAdvantages(), RLOOAdvantages(), ReinforcePlusPlusAdvantages()]
WEIGHTS = [GroupTokenMean(), SequenceMean(), FixedLengthMean(length=LENGTH)]
every_estimator = pytest.mark.parametrize("estimate", ESTIMATORS, ids=lambda value: type(value).__name__)
every_weighting = pytest.mark.parametrize("weigh", WEIGHTS, ids=lambda value: type(value).__name__)


@every_estimator
@every_weighting
def test_the_loss_is_that_of_the_equations(estimate: AdvantageEstimator, weigh: TokenWeights) -> None:
    data = case()
    assert float(computed(data, estimate, weigh)) == pytest.approx(looped(data, estimate, weigh), rel=1e-5)


def test_the_clip_is_counted_where_the_equation_clips() -> None:
    data = case()
    advantages = GroupRelativeAdvantages()(data.rewards).flatten()
    _, clipped = clipped_policy_loss(data.log_probs, data.old, advantages, LOW, HIGH)
    for row in range(PROMPTS * GROUP):
        for t in range(TOKENS):
            ratio, a = math.exp(float(data.log_probs[row, t] - data.old[row, t])), float(advantages[row])
            bounded = min(max(ratio, 1 - LOW), 1 + HIGH)
            assert bool(clipped[row, t]) is (bounded * a < ratio * a)
    assert 0 < int(clipped.sum()) < clipped.numel()


@every_estimator
@every_weighting
def test_neither_the_order_of_the_group_nor_padding_changes_the_loss(
    estimate: AdvantageEstimator, weigh: TokenWeights
) -> None:
    data = case()
    expected = computed(data, estimate, weigh)
    order = torch.randperm(GROUP)
    rows = (torch.arange(PROMPTS)[:, None] * GROUP + order).flatten()
    tokens = (data.log_probs, data.old, data.ref, data.mask)
    shuffled = Case(*(values[rows] for values in tokens), data.rewards[:, order])
    torch.testing.assert_close(computed(shuffled, estimate, weigh), expected, rtol=1e-6, atol=0)
    padded = Case(*(torch.nn.functional.pad(values, (0, 3)) for values in tokens), data.rewards)
    torch.testing.assert_close(computed(padded, estimate, weigh), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("estimate", ESTIMATORS[:3], ids=lambda value: type(value).__name__)
@every_weighting
def test_the_mean_over_prompts_taken_alone_is_the_loss(estimate: AdvantageEstimator, weigh: TokenWeights) -> None:
    """What gradient accumulation and processes do."""
    data = case()
    parts = []
    for b in range(PROMPTS):
        rows = slice(b * GROUP, (b + 1) * GROUP)
        tokens = (values[rows] for values in (data.log_probs, data.old, data.ref, data.mask))
        parts.append(computed(Case(*tokens, data.rewards[b : b + 1]), estimate, weigh))
    torch.testing.assert_close(torch.stack(parts).mean(), computed(data, estimate, weigh), rtol=1e-6, atol=0)


@every_weighting
@pytest.mark.parametrize("size", [1, 3, 5])
def test_pieces_of_a_group_add_up_to_the_loss_and_its_gradient(weigh: TokenWeights, size: int) -> None:
    """What micro-batches do: advantages and weights of the whole, the loss in pieces."""
    data = case()
    log_probs = data.log_probs.requires_grad_(True)
    computed(data, ESTIMATORS[0], weigh).backward()
    expected, log_probs.grad = log_probs.grad, None
    advantages = ESTIMATORS[0](data.rewards).flatten()
    weights = weigh(data.mask.view(PROMPTS, GROUP, -1)).flatten(0, 1)
    for start in range(0, PROMPTS * GROUP, size):
        rows = slice(start, start + size)
        losses, _ = clipped_policy_loss(log_probs[rows], data.old[rows], advantages[rows], LOW, HIGH)
        (weights[rows] * (losses + BETA * k3_kl(log_probs[rows], data.ref[rows]))).sum().backward()
    torch.testing.assert_close(log_probs.grad, expected)
