"""The mask reward against a loop over pixels and against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coprs_lightning.rl.rewards import MaskReward, checked_scores
from coprs_lightning.spec import build
from coprs_lightning.structures import NO_PRIOR_LOGIT
from tests.rl.rewards.inputs import reward_inputs, square


def score(mask: torch.Tensor, target: torch.Tensor, **options: float) -> float:
    return float(checked_scores(MaskReward(**options), reward_inputs(["x"], mask, target)))


def test_cases_worked_out_by_hand() -> None:
    wanted = square(2, 2, 4, 8)
    assert score(wanted, wanted) == pytest.approx(1.0)
    # half of the square is hit: IoU 8 / 24, Dice 16 / 32
    assert score(square(4, 2, 4, 8), wanted) == pytest.approx(0.5 / 3 + 0.2 / 2 + 0.3 / 3)
    assert score(square(0, 0, 2, 8), square(4, 4, 2, 8)) == pytest.approx(0.0, abs=1e-6)
    # p = 0.5 everywhere against a full target: soft IoU 0.5, soft Dice 2/3, and 0.5 counts as marked
    assert score(torch.full((1, 8, 8), 0.5), torch.ones(1, 8, 8)) == pytest.approx(0.5 * 0.5 + 0.2 * 2 / 3 + 0.3)
    assert score(torch.full((1, 8, 8), 0.499), torch.ones(1, 8, 8), soft_iou=0, soft_dice=0) == pytest.approx(
        0, abs=1e-6
    )


def test_matches_a_loop_over_pixels() -> None:
    masks, targets = torch.rand(5, 6, 7), torch.rand(5, 6, 7)
    expected = []
    for p, t in zip(masks.double().numpy(), targets.double().numpy(), strict=True):
        overlap = total = both = either = 0.0
        for y, x in np.ndindex(6, 7):
            overlap += p[y, x] * t[y, x]
            total += p[y, x] + t[y, x]
            both += p[y, x] >= 0.5 and t[y, x] >= 0.5
            either += p[y, x] >= 0.5 or t[y, x] >= 0.5
        expected.append(0.5 * overlap / (total - overlap) + 0.2 * 2 * overlap / total + 0.3 * both / either)
    scores = MaskReward()(reward_inputs(["x"] * 5, masks, targets))
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5)


def test_the_target_is_brought_to_the_grid_of_the_mask() -> None:
    target = square(1, 1, 5, 16)  # cuts grid cells of 4 × 4 pixels, so that the target becomes soft
    shrunk = F.avg_pool2d(target, 4)
    assert 0 < float(shrunk[0, 0, 0]) < 1
    mask = torch.rand(1, 4, 4)
    assert score(mask, target) == pytest.approx(score(mask, shrunk))
    assert score(shrunk, target, soft_iou=0, soft_dice=0) == pytest.approx(
        0.3
    )  # both cut at 0.5: the hard part is full


def test_padding_counts_as_background() -> None:
    target, mask = square(0, 0, 4, 8), square(0, 0, 4, 8)
    mask[:, 6:] = 1.0  # 16 pixels marked below the image
    inputs = reward_inputs(["x"], mask, target)
    inputs.valid_sizes[:] = torch.tensor([6, 8])
    assert float(MaskReward()(inputs)) == pytest.approx(0.5 / 2 + 0.2 * 2 / 3 + 0.3 / 2)


def test_empty_for_empty_is_right_and_anything_for_empty_is_wrong() -> None:
    empty = torch.zeros(1, 8, 8)
    assert score(empty, empty) == 1.0
    assert score(torch.full((1, 8, 8), NO_PRIOR_LOGIT).sigmoid(), empty) == pytest.approx(1.0)
    assert score(square(0, 0, 1, 8), empty) == pytest.approx(0.0, abs=1e-5)
    assert score(empty, square(0, 0, 1, 8)) == pytest.approx(0.0, abs=1e-5)


def test_without_a_token_there_is_no_mask_to_reward() -> None:
    empty = torch.zeros(2, 4, 4)
    scores = MaskReward()(reward_inputs(["x"] * 2, empty, empty, torch.tensor([True, False])))
    assert scores.tolist() == [1.0, 0.0]


def test_better_masks_earn_more_without_gradients() -> None:
    target = square(2, 2, 4, 8)
    logits = (10 * (target - 0.5)).requires_grad_(True)
    scores = [MaskReward()(reward_inputs(["x"], (scale * logits).sigmoid(), target)) for scale in (0.1, 0.5, 1.0)]
    assert not any(value.requires_grad for value in scores)
    assert float(scores[0]) < float(scores[1]) < float(scores[2]) < 1


def test_rows_do_not_depend_on_each_other() -> None:
    masks, targets = torch.rand(4, 4, 4), torch.rand(4, 8, 8)
    together = MaskReward()(reward_inputs(["x"] * 4, masks, targets))
    alone = [MaskReward()(reward_inputs(["x"], masks[i : i + 1], targets[i : i + 1])) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_range_and_spec_follow_the_weights() -> None:
    assert MaskReward().range == pytest.approx((0.0, 1.0))
    reward = MaskReward(soft_iou=2, soft_dice=0, hard_iou=1, threshold=0.4)
    assert reward.range == (0.0, 3.0)
    assert build(reward.spec).spec == reward.spec


@pytest.mark.parametrize("weights", [(-0.1, 0.5, 0.6), (0, 0, 0)])
def test_weights_must_reward(weights: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"MaskReward\.soft_iou, soft_dice and hard_iou are .*: they must be ≥ 0"):
        MaskReward(soft_iou=weights[0], soft_dice=weights[1], hard_iou=weights[2])


@pytest.mark.parametrize("threshold", [0, 1, -3])
def test_the_threshold_cuts_probabilities(threshold: float) -> None:
    with pytest.raises(ValueError, match=rf"MaskReward\.threshold must lie in \(0, 1\), got {threshold}"):
        MaskReward(threshold=threshold)
