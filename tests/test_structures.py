"""The data structures: moving them between devices."""

from __future__ import annotations

import torch

from coprs_lightning.structures import (
    NO_PRIOR_LOGIT,
    Completions,
    PolicyOutput,
    Prompts,
    SegmentationBatch,
    SegmentationOutput,
)
from tests.parts import small_batch


def completions() -> Completions:
    return Completions(
        torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool), ["a", "b"], torch.zeros(2)
    )


def test_a_batch_moves_with_all_its_tensors_and_leaves_the_original():
    batch = small_batch(3)
    batch.original_ignores[1] = torch.zeros_like(batch.original_masks[1])
    moved = batch.to("meta")
    assert isinstance(moved, SegmentationBatch)
    tensors = [moved.frames, moved.valid_sizes, moved.masks, *moved.images, *moved.original_masks]
    assert {tensor.device.type for tensor in [*tensors, moved.original_ignores[1]]} == {"meta"}
    assert moved.original_ignores[0] is None
    assert moved.features is None
    assert moved.questions == batch.questions
    assert batch.frames.device.type == "cpu"
    assert batch.images[0].device.type == "cpu"


def test_precomputed_features_move_too():
    batch = small_batch(2)
    batch.features = torch.zeros(2, 4, 8, 8)
    assert batch.to("meta").features.device.type == "meta"


def test_the_length_of_a_batch_is_its_number_of_examples():
    assert len(small_batch(3)) == 3


def test_prompts_move_their_vision_inputs():
    prompts = Prompts(torch.zeros(1, 2), torch.ones(1, 2), {"pixel_values": torch.zeros(4, 8)})
    assert prompts.to("meta").vision["pixel_values"].device.type == "meta"


def test_nested_structures_move():
    mask = torch.ones(2, 5, dtype=torch.bool)
    policy = PolicyOutput(torch.zeros(2, 5, 8), mask, mask, mask, mask, prompt_length=2)
    logits = torch.zeros(2, 1, 4, 4)
    output = SegmentationOutput(logits, logits, torch.ones(2, 1, dtype=torch.bool), policy, completions())
    moved = output.to("meta")
    assert moved.policy.hidden.device.type == "meta"
    assert moved.completions.ids.device.type == "meta"
    assert moved.completions.texts == ["a", "b"]
    assert moved.policy.prompt_length == 2


def output_of(logits: torch.Tensor, present: list[list[int]], confidence: list[list[float]] | None):
    mask = torch.ones(2, 5, dtype=torch.bool)
    policy = PolicyOutput(torch.zeros(2, 5, 8), mask, mask, mask, mask, prompt_length=2)
    return SegmentationOutput(
        logits,
        2 * logits,
        torch.tensor(present).bool(),
        policy,
        completions(),
        None if confidence is None else torch.tensor(confidence),
    )


def test_the_union_of_one_slot_is_the_slot_to_the_last_bit():
    logits = torch.randn(2, 1, 4, 4)
    logits[1] = NO_PRIOR_LOGIT
    heatmap, mask = output_of(logits, [[1], [0]], None).union()
    assert torch.equal(heatmap, logits)
    assert torch.equal(mask[0], 2 * logits[0])
    assert (mask[1] == NO_PRIOR_LOGIT).all()


def test_the_union_is_the_greatest_logit_of_the_chosen_slots():
    logits = torch.randn(2, 3, 4, 4)
    output = output_of(logits, [[1, 1, 1], [1, 1, 0]], [[3.0, -0.1, 0.1], [-1.0, 0.0, 9.0]])
    assert output.chosen.tolist() == [[True, False, True], [False, False, False]]
    heatmap, mask = output.union()
    assert torch.equal(heatmap[0, 0], torch.maximum(logits[0, 0], logits[0, 2]))
    assert torch.equal(mask[0], 2 * heatmap[0])
    assert (heatmap[1] == NO_PRIOR_LOGIT).all()
    assert (mask[1] == NO_PRIOR_LOGIT).all()


def test_without_confidence_every_present_slot_is_chosen():
    logits = torch.randn(2, 2, 4, 4)
    output = output_of(logits, [[1, 1], [0, 1]], None)
    heatmap, _ = output.union()
    assert torch.equal(heatmap[0, 0], logits[0].amax(0))
    assert torch.equal(heatmap[1, 0], logits[1, 1])


def test_no_prior_is_finite_in_half_precision_and_means_nothing():
    logit = torch.tensor(NO_PRIOR_LOGIT, dtype=torch.float16)
    assert logit.isfinite()
    assert logit.sigmoid() == 0


def test_a_part_of_a_batch_is_its_examples():
    batch = small_batch(4)
    batch.features = torch.arange(4.0)[:, None, None, None]
    part = batch.part(1, 3)
    assert part.keys == batch.keys[1:3]
    assert len(part) == 2
    assert torch.equal(part.masks, batch.masks[1:3])
    assert part.features.flatten().tolist() == [1.0, 2.0]
    assert part.original_ignores == batch.original_ignores[1:3]


def test_a_part_of_a_batch_finds_its_own_shared_frames():
    batch = small_batch(4)
    batch.frame_index = torch.tensor([0, 0, 2, 2])
    assert batch.part(1, 4).frame_index.tolist() == [0, 1, 1]
    batch.frame_index = None
    assert batch.part(1, 4).frame_index is None


def test_a_part_of_completions_is_its_rows():
    part = completions().part(1, 2)
    assert part.texts == ["b"]
    assert part.ids.shape == (1, 3)
