"""Properties of the advantage estimators; their values are held to the equations in tests/parity/test_grpo.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from coprs_lightning.rl.advantages import (
    AdvantageEstimator,
    DrGRPOAdvantages,
    GroupRelativeAdvantages,
    ReinforcePlusPlusAdvantages,
    RLOOAdvantages,
)
from coprs_lightning.spec import build
from tests.conftest import REPO
from tests.rl.advantages.two_processes import rewards as rewards_of_two

IN_GROUP = [GroupRelativeAdvantages(), DrGRPOAdvantages(), RLOOAdvantages()]
ALL = [*IN_GROUP, ReinforcePlusPlusAdvantages()]


def named(estimators: list[AdvantageEstimator]) -> list:
    return [pytest.param(estimator, id=type(estimator).__name__) for estimator in estimators]


@pytest.mark.parametrize("estimate", named(ALL))
def test_advantages_have_the_order_of_the_rewards_and_no_mean(estimate: AdvantageEstimator) -> None:
    rewards = torch.rand(4, 8)
    advantages = estimate(rewards)
    assert advantages.dtype == torch.float32
    assert advantages.shape == rewards.shape
    assert torch.equal(advantages.argsort(1), rewards.argsort(1))
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("estimate", named(IN_GROUP))
def test_equal_rewards_have_advantages_of_exactly_zero(estimate: AdvantageEstimator) -> None:
    noisy = torch.full((8,), 0.7) + 6e-8 * torch.arange(8).remainder(2)
    assert noisy.unique().numel() == 2
    rewards = torch.stack([torch.full((8,), 0.7), noisy, torch.linspace(0, 1, 8), torch.zeros(8)])
    advantages = estimate(rewards)
    assert (advantages[[0, 1, 3]] == 0).all()
    assert (advantages[2] != 0).all()


def test_equal_rewards_of_the_whole_batch_have_advantages_of_exactly_zero() -> None:
    estimate = ReinforcePlusPlusAdvantages()
    noisy = torch.full((3, 8), 0.7) + 6e-8 * torch.arange(8).remainder(2)
    for rewards in (torch.full((3, 8), 0.7), noisy, torch.full((1, 1), 0.3)):
        assert (estimate(rewards) == 0).all()


def test_a_group_of_equal_rewards_is_compared_with_other_prompts_by_reinforce_plus_plus() -> None:
    advantages = ReinforcePlusPlusAdvantages()(torch.tensor([[0.9, 0.9], [0.1, 0.1]]))
    torch.testing.assert_close(advantages, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), rtol=1e-5, atol=1e-5)


def test_no_eps_is_no_division_by_zero() -> None:
    rewards = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    assert GroupRelativeAdvantages(eps=0)(rewards)[0].tolist() == [0, 0]
    assert ReinforcePlusPlusAdvantages(eps=0)(rewards[:1]).tolist() == [[0, 0]]


@pytest.mark.parametrize("estimate", named(ALL))
def test_the_order_of_the_group_does_not_matter(estimate: AdvantageEstimator) -> None:
    rewards, order = torch.rand(3, 6), torch.randperm(6)
    torch.testing.assert_close(estimate(rewards[:, order]), estimate(rewards)[:, order])


@pytest.mark.parametrize("estimate", named(IN_GROUP))
def test_prompts_do_not_depend_on_each_other(estimate: AdvantageEstimator) -> None:
    rewards = torch.rand(5, 4)
    alone = torch.cat([estimate(rewards[i : i + 1]) for i in range(5)])
    assert torch.equal(estimate(rewards), alone)


@pytest.mark.parametrize("estimate", named(ALL))
def test_a_shift_changes_nothing(estimate: AdvantageEstimator) -> None:
    rewards = torch.rand(3, 6)
    torch.testing.assert_close(estimate(rewards + 5), estimate(rewards), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimate", [GroupRelativeAdvantages(), ReinforcePlusPlusAdvantages()])
def test_a_scale_changes_what_is_not_divided_by_the_deviation(estimate: AdvantageEstimator) -> None:
    rewards = torch.rand(3, 6)
    torch.testing.assert_close(estimate(10 * rewards), estimate(rewards), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(DrGRPOAdvantages()(10 * rewards), 10 * DrGRPOAdvantages()(rewards))


@pytest.mark.parametrize("estimate", named(ALL))
def test_specs_rebuild(estimate: AdvantageEstimator) -> None:
    assert build(estimate.spec).spec == estimate.spec
    assert type(build(estimate.spec)) is type(estimate)


@pytest.mark.parametrize("estimate", named(IN_GROUP))
def test_groups_of_one_are_refused(estimate: AdvantageEstimator) -> None:
    assert estimate.least_group_size == 2
    with pytest.raises(ValueError, match=r"got rewards of shape \(3, 1\).* needs \(B, G\) with G ≥ 2"):
        estimate(torch.rand(3, 1))
    with pytest.raises(ValueError, match=rf"{type(estimate).__name__} got rewards of shape \(6,\)"):
        estimate(torch.rand(6))


def test_reinforce_plus_plus_needs_no_group() -> None:
    estimate = ReinforcePlusPlusAdvantages()
    assert estimate.least_group_size == 1
    rewards = torch.rand(6, 1)
    torch.testing.assert_close(estimate(rewards), estimate(rewards.view(2, 3)).view(6, 1))


@pytest.mark.parametrize("kind", [GroupRelativeAdvantages, ReinforcePlusPlusAdvantages])
def test_eps_is_not_negative(kind: type) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__}\.eps must be ≥ 0, got -1e-06"):
        kind(eps=-1e-6)


def test_two_processes_normalise_together(tmp_path: Path) -> None:
    """Three prompts on one process, one on the other."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    words = [*command, "-m", "tests.rl.advantages.two_processes", str(tmp_path)]
    done = subprocess.run(words, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    together = torch.tensor(found[0]["advantages"] + found[1]["advantages"])
    torch.testing.assert_close(together, ReinforcePlusPlusAdvantages()(rewards_of_two()))
    assert {value for part in found for row in part["equal"] for value in row} == {0.0}
