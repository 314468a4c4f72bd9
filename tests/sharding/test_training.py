"""Two processes, DDP and FSDP2, do what one process does on the same global batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.sharding.trained import alone, launch

STEPS = 6
CASES: dict[str, dict[str, Any]] = {
    "supervised": {},
    "clipped by value": {"clip": 1e-3, "clip_by": "value"},
    "own completions": {"objective_args": {"own_completions_every": 2, "own_temperature": 0.0, "max_new_tokens": 6}},
    "accumulated": {"accumulate": 2, "steps": STEPS // 2, "of": STEPS},
    "vision tower frozen": {"policy": {"train_vision": False}},
    "policy frozen": {"policy": {"frozen": True}},
    "joint": {"objective": "grpo"},
    "micro-batches": {"objective": "grpo", "objective_args": {"micro_batch_size": 4}},
    "several updates": {"objective": "grpo", "objective_args": {"updates_per_batch": 2}},
    "adapters": {"objective": "grpo", "policy": {"lora": {"rank": 2}}},
    "recomputed": {"objective": "grpo", "policy": {"gradient_checkpointing": True, "log_prob_chunk": 7}},
    "matrices of their own": {"policy": {"config_overrides": "untied"}},
}


def cases(folder: Path, strategy: str) -> list[dict[str, Any]]:
    """All cases, each with a file for what comes out."""
    given = {"steps": STEPS, "strategy": strategy}
    return [{**given, **case, "out": folder / f"{strategy} {name}.pt"} for name, case in CASES.items()]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every case in this process."""
    folder = tmp_path_factory.mktemp("one")
    return dict(zip(CASES, [alone(case) for case in cases(folder, "auto")], strict=True))


def worst(found: dict[str, Any], expected: dict[str, Any]) -> tuple[float, float]:
    """Largest relative difference of a loss, and largest difference of a weight."""
    assert len(found["losses"]) == len(expected["losses"]) > 0
    pairs = zip(found["losses"], expected["losses"], strict=True)
    return max(abs(a - b) / abs(b) for a, b in pairs), distance(found["state"], expected["state"])


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest difference of a weight."""
    assert found.keys() == expected.keys()
    return max(float((found[name].float() - value.float()).abs().max()) for name, value in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_are_one(strategy: str, one: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    for name, found in zip(CASES, launch(2, cases(tmp_path, strategy)), strict=True):
        loss, weight = worst(found, one[name])
        assert loss <= 1e-5, (name, loss)
        # Adam divides by tiny gradients' own size, so rounding may show where there is hardly a gradient
        assert weight <= 1e-3, (name, weight)


def test_the_policy_divided_between_two_processes_learns_as_one(tmp_path: Path) -> None:
    case = {"steps": STEPS, "objective": "grpo", "objective_args": {"micro_batch_size": 8}}
    expected = alone({**case, "out": tmp_path / "one.pt"})
    short = {**case, "strategy": "fsdp", "out": tmp_path / "two.pt"}
    unequal = {**short, "unequal": True, "steps": 2, "policy": {"log_prob_chunk": 7}, "out": tmp_path / "unequal.pt"}
    found, lengths = launch(2, [short, unequal])
    assert worst(found, expected)[0] <= 1e-5
    assert expected["losses"][0] != pytest.approx(expected["losses"][-1], rel=0.1)  # something was learnt
    assert len(lengths["losses"]) == 2  # completions of other lengths in each process: nobody waited for ever


@pytest.mark.slow
def test_half_precision_stays_near(tmp_path: Path) -> None:
    case = {"steps": STEPS, "objective": "grpo", "precision": "bf16-mixed"}
    expected = alone({**case, "out": tmp_path / "one.pt"})
    low = {**case, "policy": {"dtype": "bfloat16"}, "strategy": "fsdp", "out": tmp_path / "low.pt"}
    found, stored = launch(2, [{**case, "strategy": "fsdp", "out": tmp_path / "two.pt"}, low])
    assert worst(found, expected)[0] <= 0.05
    assert torch.isfinite(torch.tensor(stored["losses"])).all()
    policy = {value.dtype for name, value in stored["state"].items() if ".lm." in name}
    assert policy == {torch.bfloat16}
    assert {value.dtype for name, value in found["state"].items() if ".lm." in name} == {torch.float32}


@pytest.mark.slow
def test_processes_that_begin_with_different_weights_are_told(tmp_path: Path) -> None:
    case = {"steps": 1, "strategy": "fsdp", "different": True, "out": tmp_path / "out.pt"}
    with pytest.raises(AssertionError, match=r"the processes begin with different weights .*Set seed_everything"):
        launch(2, [case])
