"""Objects to slots: costs against loops over pairs, assignments against all permutations."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from coprs_lightning.losses.matching import (
    DEFAULT_MATCHING,
    MatchingOptions,
    assign,
    assignment_cost,
    confidence_loss,
    merge_surplus,
)
from coprs_lightning.losses.segmentation import focal


def scene(slots: int = 4, objects: int = 3, side: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Random mask logits, confidences, and hard objects on a grid twice as fine."""
    generator = torch.Generator().manual_seed(0)
    masks = 3 * torch.randn(slots, side, side, generator=generator)
    truth = (torch.rand(objects, side, side, generator=generator) > 0.7).float()
    return masks, torch.randn(slots, generator=generator), truth.repeat_interleave(2, 1).repeat_interleave(2, 2)


@pytest.mark.parametrize("with_valid", [False, True])
def test_costs_are_those_of_every_pair(with_valid):
    masks, confidence, objects = scene()
    options = MatchingOptions(cost_dice=2.0, cost_focal=7.0, cost_confidence=0.5)
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    if with_valid:
        valid[..., 10:] = False
    cost = assignment_cost(masks, confidence, objects, options, valid if with_valid else None)
    assert cost.shape == (4, 3)
    for k, j in itertools.product(range(4), range(3)):
        truth = objects[j, ::2, ::2] * valid[0]
        probability = masks[k].sigmoid() * valid[0]
        dice = 1 - (2 * (probability * truth).sum() + 1) / (probability.sum() + truth.sum() + 1)
        focal_loss = focal(masks[k][None, None], objects[j, ::2, ::2][None, None], valid[None])
        expected = 2.0 * dice + 7.0 * focal_loss - 0.5 * confidence[k].sigmoid()
        torch.testing.assert_close(cost[k, j], expected[0], atol=1e-5, rtol=1e-5)


def test_costs_of_fine_masks_are_taken_on_a_coarse_grid():
    masks, confidence, objects = scene()
    fine = masks.repeat_interleave(8, 1).repeat_interleave(8, 2)  # 128 × 128
    larger = objects.repeat_interleave(8, 1).repeat_interleave(8, 2)
    torch.testing.assert_close(
        assignment_cost(fine, confidence, larger, DEFAULT_MATCHING),
        assignment_cost(masks, confidence, objects, DEFAULT_MATCHING),
        atol=2e-2,  # the 1 that keeps Dice defined weighs less on more cells
        rtol=0,
    )


def test_costs_carry_no_gradient_and_are_finite_for_extreme_logits():
    masks, confidence, objects = scene()
    masks = (masks * 5e3).half().requires_grad_(True)
    cost = assignment_cost(masks, confidence, objects, DEFAULT_MATCHING)
    assert cost.isfinite().all()
    assert not cost.requires_grad


@pytest.mark.parametrize(("slots", "objects"), [(1, 1), (3, 1), (4, 3), (5, 5), (3, 0)])
def test_the_cheapest_assignment_is_found(slots, objects):
    cost = torch.rand(slots, objects, generator=torch.Generator().manual_seed(slots))
    chosen, which = assign(cost)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert sorted(which.tolist()) == list(range(objects))
    best = min(
        sum(cost[slot, j].item() for j, slot in enumerate(order))
        for order in itertools.permutations(range(slots), objects)
    )
    assert cost[chosen, which].sum().item() == pytest.approx(best)


def test_costs_that_are_not_finite_are_no_error():
    """The loss itself is not finite then, and says so."""
    cost = torch.tensor([[torch.nan, torch.inf], [0.0, -torch.inf]])
    chosen, which = assign(cost)
    assert chosen.tolist() == [0, 1]
    assert which.tolist() == [0, 1]


def test_a_confident_slot_is_preferred_among_equals():
    masks, _, objects = scene(objects=1)
    same = masks[:1].expand(3, -1, -1)
    chosen, _ = assign(assignment_cost(same, torch.tensor([0.0, 1.0, -1.0]), objects, DEFAULT_MATCHING))
    assert chosen.tolist() == [1]


class TestMergeSurplus:
    def objects(self) -> Tensor:
        found = torch.zeros(4, 8, 8)
        for number, size in enumerate((2, 5, 3, 4)):
            found[number, 2 * number : 2 * number + 2, :size] = 1
        return found

    def test_the_largest_stay_and_the_others_become_one(self):
        objects = self.objects()
        merged = merge_surplus(objects, 3)
        assert torch.equal(merged[0], objects[1])
        assert torch.equal(merged[1], objects[3])
        assert torch.equal(merged[2], objects[0] + objects[2])

    def test_one_slot_gets_their_union(self):
        merged = merge_surplus(torch.cat([self.objects(), torch.full((1, 8, 8), 0.5)]).half(), 1)
        assert merged.dtype == torch.float16
        assert torch.equal(merged[0], self.objects().sum(0).add(0.5).clamp(max=1).half())

    @pytest.mark.parametrize("most", [4, 9])
    def test_enough_slots_leave_them_alone(self, most):
        objects = self.objects()
        assert merge_surplus(objects, most) is objects
        assert merge_surplus(objects[:0], most).shape == (0, 8, 8)


class TestConfidence:
    logits = torch.tensor([[2.0, -1.0, 0.5], [1.0, -3.0, 4.0]])
    matched = torch.tensor([[True, False, False], [False, False, False]])
    present = torch.tensor([[True, True, True], [True, True, False]])

    def test_it_is_the_mean_cross_entropy_of_the_slots_that_are_there(self):
        loss = confidence_loss(self.logits, self.matched, self.present, unmatched=1.0)
        slot = torch.nn.functional.softplus
        expected = [(slot(-self.logits[0, 0]) + slot(self.logits[0, 1]) + slot(self.logits[0, 2])) / 3]
        expected.append((slot(self.logits[1, 0]) + slot(self.logits[1, 1])) / 2)
        torch.testing.assert_close(loss, torch.stack(expected))

    def test_slots_without_an_object_may_weigh_less(self):
        loss = confidence_loss(self.logits, self.matched, self.present, unmatched=0.25)
        slot = torch.nn.functional.softplus
        first = slot(-self.logits[0, 0]) + 0.25 * (slot(self.logits[0, 1]) + slot(self.logits[0, 2]))
        torch.testing.assert_close(loss[0], first / 1.5)

    def test_without_any_slot_it_is_0(self):
        loss = confidence_loss(self.logits, self.matched, torch.zeros_like(self.present), unmatched=1.0)
        assert loss.tolist() == [0, 0]


def test_weights_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"objective\.matching\.confidence must be ≥ 0, got -1"):
        MatchingOptions(confidence=-1)
    with pytest.raises(ValueError, match=r"cost_dice and cost_focal are both 0"):
        MatchingOptions(cost_dice=0, cost_focal=0)
