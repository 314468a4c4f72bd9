"""Mixtures of rewards, the paper's and one's own."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from coprs_lightning.importing import ALLOW_ENV
from coprs_lightning.rl.rewards import (
    FormatReward,
    MaskReward,
    Reward,
    RewardInputs,
    WeightedSumReward,
    checked_scores,
)
from coprs_lightning.spec import build, class_path
from tests.rl.rewards.inputs import GOOD, reward_inputs


class BrevityReward(Reward):
    """A reward as a user may write it: 1 for an empty completion, falling to 0 at ``longest`` characters."""

    def __init__(self, *, longest: int = 100) -> None:
        self.longest = longest
        self.calls = 0

    @property
    def range(self) -> tuple[float, float]:
        return 0.0, 1.0

    def __call__(self, inputs: RewardInputs) -> Tensor:
        self.calls += 1
        lengths = torch.tensor([len(text) for text in inputs.texts], device=inputs.masks.device)
        return (1 - lengths / self.longest).clamp(min=0)


class BrokenReward(BrevityReward):
    def __call__(self, inputs: RewardInputs) -> Tensor:
        return super().__call__(inputs) * float("nan")


def test_the_default_is_the_papers_mixture() -> None:
    inputs = reward_inputs([GOOD, "no format", f"Well: {GOOD}"], torch.rand(3, 4, 4), torch.rand(3, 8, 8))
    mask, form = MaskReward()(inputs), FormatReward()(inputs)
    reward = WeightedSumReward()
    torch.testing.assert_close(checked_scores(reward, inputs), 0.7 * mask + 0.3 * form)
    parts = reward.parts(inputs)
    assert list(parts) == ["mask", "format"]
    torch.testing.assert_close(parts["mask"], mask)
    assert torch.equal(parts["format"], form)
    assert reward.range == pytest.approx((0, 1))


def test_ones_own_reward_by_class_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_ENV, "tests")
    spec = {
        "class_path": class_path(WeightedSumReward),
        "init_args": {
            "rewards": {
                "mask": {"class_path": class_path(MaskReward), "init_args": {"hard_iou": 0.5}},
                "brevity": {"class_path": class_path(BrevityReward), "init_args": {"longest": 10}},
            },
            "weights": {"mask": 1.0, "brevity": 0.5},
        },
    }
    reward = build(spec)
    assert isinstance(reward.rewards["brevity"], BrevityReward)
    inputs = reward_inputs(["12345", ""])
    expected = MaskReward(hard_iou=0.5)(inputs) + 0.5 * torch.tensor([0.5, 1.0])
    torch.testing.assert_close(reward(inputs), expected)
    assert build(reward.spec).spec == reward.spec
    assert reward.range == pytest.approx((0, 1.7))


def test_every_part_is_computed_once_a_step() -> None:
    brevity = BrevityReward()
    reward = WeightedSumReward(rewards={"brevity": brevity}, weights={"brevity": 1.0})
    first, second = reward_inputs(["a"]), reward_inputs(["b" * 50])
    for inputs, calls in ((first, 1), (second, 2), (first, 3)):
        scores = reward(inputs)
        assert torch.equal(reward.parts(inputs)["brevity"], scores)
        assert brevity.calls == calls
    assert not torch.equal(reward(first), reward(second))


def test_the_masks_of_the_last_step_are_not_held() -> None:
    reward, inputs = WeightedSumReward(), reward_inputs([GOOD])
    reward(inputs)
    masks = weakref.ref(inputs.masks)
    del inputs
    gc.collect()
    assert masks() is None


def test_parts_of_parts_are_named_by_both() -> None:
    inner = WeightedSumReward(rewards={"short": BrevityReward()}, weights={"short": 2.0})
    reward = WeightedSumReward(rewards={"text": inner, "format": FormatReward()}, weights={"text": 0.5, "format": 0.1})
    inputs = reward_inputs(["x" * 25])
    parts = reward.parts(inputs)
    assert {name: float(value) for name, value in parts.items()} == {"text": 1.5, "format": 0.0, "text/short": 0.75}
    assert float(reward(inputs)) == 0.75


def test_a_penalty_turns_the_range_around() -> None:
    reward = WeightedSumReward(
        rewards={"mask": MaskReward(), "brevity": BrevityReward()}, weights={"mask": 1.0, "brevity": -0.5}
    )
    assert reward.range == pytest.approx((-0.5, 1.0))
    checked_scores(reward, reward_inputs([""], torch.zeros(1, 4, 4)))  # -0.5 is inside


def test_a_part_out_of_its_range_is_named() -> None:
    reward = WeightedSumReward(rewards={"broken": BrokenReward()}, weights={"broken": 1.0})
    with pytest.raises(ValueError, match=r"BrokenReward gave nan for the completion 'a'"):
        reward(reward_inputs(["a"]))


def test_one_weight_a_part() -> None:
    message = r"rewards has the parts \['brevity'\], but WeightedSumReward\.weights weighs \['format', 'mask'\]"
    with pytest.raises(ValueError, match=message):
        WeightedSumReward(rewards={"brevity": BrevityReward()})
    with pytest.raises(ValueError, match=r"rewards has the parts \['format', 'mask'\].* weighs \['mask'\]"):
        WeightedSumReward(weights={"mask": 1.0})
    assert WeightedSumReward(weights={"mask": 1.0, "format": 0.0}).range == pytest.approx((0, 1))


def test_no_parts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"WeightedSumReward\.rewards is empty"):
        WeightedSumReward(rewards={}, weights={})


@pytest.mark.parametrize("name", ["total", "std"])
def test_parts_do_not_hide_what_is_logged_for_the_sum(name: str) -> None:
    with pytest.raises(ValueError, match=f"a part named '{name}', but train/reward/{name} is logged for the sum"):
        WeightedSumReward(rewards={name: MaskReward()}, weights={name: 1.0})


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_are_finite(weight: float) -> None:
    with pytest.raises(ValueError, match=rf"WeightedSumReward\.weights\['mask'\] must be finite, got {weight}"):
        WeightedSumReward(rewards={"mask": MaskReward()}, weights={"mask": weight})
