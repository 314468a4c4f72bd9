"""Several concentration tokens and several objects, on a real small model; one token stays what it was."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from coprs_lightning.aggregators import MultiTokenAggregator
from coprs_lightning.geometry import valid_mask
from coprs_lightning.losses.matching import DEFAULT_MATCHING, MatchingOptions, confidence_loss
from coprs_lightning.losses.segmentation import PAPER_WEIGHTS, SegmentationWeights, resize_target, segmentation_loss
from coprs_lightning.model import CoprsModel
from coprs_lightning.objectives import GRPOObjective, SupervisedObjective, TrainingStep
from coprs_lightning.objectives.segmentation import segmentation_rows
from coprs_lightning.prompts import several_prompt
from coprs_lightning.rl.advantages import DrGRPOAdvantages
from coprs_lightning.structures import NO_PRIOR_LOGIT, Example, SegmentationBatch, SegmentationOutput
from datamodules.collate import FrameCollator
from tests.conftest import REPO
from tests.objectives.replay import ReplayRollout
from tests.parts import FRAME, part_of_batch, rectangle, small_batch, small_model, small_policy

WEIGHTS = SegmentationWeights(heatmap_bce=1.0, heatmap_dice=0.5, dice=3.0, focal=10.0)
TOKENS = 3


def several_model(frozen_backbone: bool = True, **options: Any) -> CoprsModel:
    """Three tokens; always the same weights."""
    policy = small_policy(prompt=several_prompt(TOKENS))
    torch.manual_seed(9)
    aggregator = MultiTokenAggregator(hidden_size=32, num_tokens=TOKENS)
    return small_model(policy=policy, aggregator=aggregator, frozen_backbone=frozen_backbone, **options)


def objects_in(count: int, number: int) -> Example:
    """An example with ``count`` vertical bars as objects."""
    example = rectangle(48, 48 + 4 * number, number)
    bars = np.zeros((count, *example.mask.shape), dtype=bool)
    for bar in range(count):
        bars[bar, : 20 + 5 * bar, 12 * bar : 12 * bar + 6 + bar] = True
    instances = bars if count > 1 else None
    return replace(example, mask=bars.any(0), instances=instances)


def batch_of(*counts: int) -> SegmentationBatch:
    return FrameCollator(FRAME)([objects_in(count, number) for number, count in enumerate(counts)])


def pass_of(model: CoprsModel, batch: SegmentationBatch, missing: dict[int, int] | None = None) -> SegmentationOutput:
    """A pass over the written thoughts; so many tokens missing in some rows."""
    completions = SupervisedObjective().written_completions(model, batch)
    ids = completions.ids.clone()
    for row, count in (missing or {}).items():
        places = (ids[row] == model.policy.concentration_id).nonzero()[:, 0]
        ids[row, places[len(places) - count :]] = 65
    prompts = model.policy.encode_prompts(batch.images, batch.questions)
    output: SegmentationOutput = model(batch, prompts, replace(completions, ids=ids))
    return output


def rows_of(
    output: SegmentationOutput, batch: SegmentationBatch, ignore_padding: bool = False, **options: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    return segmentation_rows(output, batch, WEIGHTS, FRAME, ignore_padding, MatchingOptions(**options))


@pytest.fixture(scope="module")
def model() -> CoprsModel:
    """Shared by the tests that do not change it."""
    return several_model()


class TestOneToken:
    """The paper's path, written down once more: it must not change by a bit."""

    def plain(self, model: CoprsModel, batch: SegmentationBatch, ignore_padding: bool) -> Tensor:
        prompts = model.policy.encode_prompts(batch.images, batch.questions)
        completions = SupervisedObjective().written_completions(model, batch)
        policy = model.policy(prompts, completions)
        last = (policy.token_mask * torch.arange(policy.token_mask.shape[1])).amax(1)
        query = policy.hidden[torch.arange(len(last)), last][:, None]
        features = model.features(batch)
        heat = model.heatmap_head(query, features)
        mask = model.decoder(features, heat, batch.valid_sizes, FRAME)
        valid = None
        if ignore_padding:
            sizes = batch.valid_sizes
            valid = (valid_mask(sizes, heat.shape[-2:], FRAME), valid_mask(sizes, mask.shape[-2:], FRAME))
        losses, _ = segmentation_loss(heat, mask, batch.masks, WEIGHTS, valid)
        return losses

    def gradients(self, model: CoprsModel, losses: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        (losses.sum() / len(losses)).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    @pytest.mark.parametrize("ignore_padding", [False, True])
    @pytest.mark.parametrize("objects", [None, (2, 0, 1)])
    def test_outputs_losses_and_gradients_are_bit_identical(self, ignore_padding, objects):
        batch = small_batch(3) if objects is None else batch_of(*objects)
        assert (batch.instances is None) is (objects is None)
        model = small_model(frozen_backbone=False)
        expected = self.plain(model, batch, ignore_padding)
        expected_gradients = self.gradients(model, expected)
        output = pass_of(model, batch)
        assert output.confidence_logits is None
        losses, parts = rows_of(output, batch, ignore_padding)
        assert torch.equal(losses, expected)
        found = self.gradients(model, losses)
        assert found.keys() == expected_gradients.keys()
        assert all(torch.equal(found[name], gradient) for name, gradient in expected_gradients.items())
        assert set(parts) == {f"loss/{name}" for name in ("heatmap_bce", "heatmap_dice", "dice", "focal")}
        heat, mask = output.union()
        assert torch.equal(heat, output.heatmap_logits)
        assert torch.equal(mask, output.mask_logits)


class TestMatchedRows:
    def test_each_object_is_held_against_the_slot_that_suits_it_best(self, model):
        """Perfect masks in another order than the objects: only an assignment finds no loss."""
        batch = batch_of(3, 2)
        output = pass_of(model, batch)
        masks = torch.full((2, TOKENS, 32, 32), -20.0)
        for row, order in enumerate([(2, 0, 1), (1, 2)]):
            for number, slot in enumerate(order):
                truth = resize_target(batch.instances[row][number][None, None].float(), (32, 32))[0, 0]
                masks[row, slot] = torch.logit(truth, eps=1e-6)
        confidence = torch.tensor([[9.0, 9.0, 9.0], [-9.0, 9.0, 9.0]])
        perfect = replace(output, heatmap_logits=masks, mask_logits=masks, confidence_logits=confidence)
        _, parts = rows_of(perfect, batch)
        soft = [
            segmentation_loss(*2 * [torch.logit(truth, eps=1e-6)], truth, WEIGHTS)[1]["dice"].mean()
            for objects in batch.instances
            for truth in [resize_target(objects[:, None].float(), (32, 32))]
        ]  # what soft borders cost at least
        torch.testing.assert_close(parts["loss/dice"], torch.stack(soft))
        torch.testing.assert_close(parts["several/confidence_accuracy"], torch.ones(2))
        assert parts["several/merged_fraction"].tolist() == [0, 0]
        assert (parts["loss/confidence"] < 1e-3).all()
        turned = replace(perfect, mask_logits=masks.roll(1, 1), heatmap_logits=masks.roll(1, 1))
        torch.testing.assert_close(rows_of(turned, batch_of(3, 2))[1]["loss/dice"][0], parts["loss/dice"][0])

    def test_the_loss_is_the_mean_over_objects_and_the_confidence_of_all_slots(self, model):
        batch = batch_of(1, 0)
        output = pass_of(model, batch)
        losses, parts = rows_of(output, batch, confidence=0.7, cost_confidence=0.0)
        singles = [
            segmentation_loss(
                output.heatmap_logits[:1, [slot]], output.mask_logits[:1, [slot]],
                batch.instances[0][None].float(), WEIGHTS,
            )[0][0]
            for slot in range(TOKENS)
        ]  # fmt: skip
        # one object: one of the slots, and the one that costs least
        gaps = [abs(float(losses[0] - 0.7 * parts["loss/confidence"][0] - single)) for single in singles]
        best = int(np.argmin(gaps))
        assert gaps[best] < 1e-5
        assert singles[best] <= min(singles) + 0.05
        matched = torch.zeros(2, TOKENS, dtype=torch.bool)
        matched[0, best] = True
        expected = confidence_loss(output.confidence_logits, matched, output.present, 1.0)
        torch.testing.assert_close(parts["loss/confidence"], expected.detach())
        torch.testing.assert_close(losses[1], 0.7 * expected[1])
        assert all(parts[f"loss/{name}"][1] == 0 for name in ("dice", "focal", "heatmap_bce", "heatmap_dice"))

    def test_masks_of_slots_without_an_object_are_not_trained(self, model):
        batch = batch_of(1, 2)
        output = pass_of(model, batch)
        masks = output.mask_logits.detach().requires_grad_(True)
        heat = output.heatmap_logits.detach().requires_grad_(True)
        rows_of(replace(output, mask_logits=masks, heatmap_logits=heat), batch)[0].sum().backward()
        for gradient in (masks.grad, heat.grad):
            assert (gradient.abs().sum((2, 3)) > 0).sum(1).tolist() == [1, 2]

    def test_more_objects_than_slots_are_merged_and_counted(self, model):
        batch = batch_of(4, 3, 2)
        output = pass_of(model, batch, missing={2: 2})
        assert output.present.sum(1).tolist() == [3, 3, 1]
        losses, parts = rows_of(output, batch)
        assert parts["several/merged_fraction"].tolist() == [1, 0, 1]
        # the only slot of the last row is held against the union, as one token is
        union = batch.instances[2].float().sum(0).clamp(max=1)[None, None]
        torch.testing.assert_close(union, torch.nn.functional.avg_pool2d(batch.masks[2:], 2), atol=2e-3, rtol=0)
        expected, _ = segmentation_loss(output.heatmap_logits[2:, :1], output.mask_logits[2:, :1], union, WEIGHTS)
        torch.testing.assert_close(losses[2] - parts["loss/confidence"][2], expected[0], atol=1e-3, rtol=0)

    def test_rows_without_a_token_take_no_part(self, model):
        batch = batch_of(2, 2)
        output = pass_of(model, batch, missing={0: 3})
        losses, parts = rows_of(output, batch)
        assert losses[0] == 0
        assert all(values[0] == 0 for values in parts.values())
        assert losses[1] > 0

    def test_objects_of_single_masks_are_the_masks(self, model):
        batch = small_batch(2)
        assert batch.instances is None
        output = pass_of(model, batch)
        given = replace(batch)
        given.__dict__["instances"] = list(batch.masks)
        torch.testing.assert_close(rows_of(output, batch)[0], rows_of(output, given)[0])

    def test_padding_can_be_left_out(self, model):
        batch = FrameCollator(FRAME)([replace(objects_in(2, 3), features=None)])
        assert batch.valid_sizes[0, 0] < FRAME
        output = pass_of(model, batch)
        spoiled = output.mask_logits.detach().clone()
        spoiled[..., int(batch.valid_sizes[0, 0]) + 1 :, :] = 30.0
        same = [
            rows_of(replace(output, mask_logits=m), batch, True)[1]["loss/dice"] for m in (output.mask_logits, spoiled)
        ]
        torch.testing.assert_close(*same)
        counted = rows_of(replace(output, mask_logits=spoiled), batch)[1]["loss/dice"]
        assert counted > same[0]

    def test_a_group_shares_the_objects_of_its_example(self, model):
        batch = batch_of(2, 0)
        output = pass_of(model, batch)
        order = [0, 0, 1, 1]
        doubled = replace(
            output,
            heatmap_logits=output.heatmap_logits[order],
            mask_logits=output.mask_logits[order],
            present=output.present[order],
            confidence_logits=output.confidence_logits[order],
        )
        torch.testing.assert_close(rows_of(doubled, batch)[0], rows_of(output, batch)[0][order])


class TestTraining:
    @pytest.mark.parametrize("counts", [(2, 0, 1), (0, 0)])
    def test_gradients_reach_every_part_even_where_nothing_fits(self, counts):
        model = several_model(frozen_backbone=False)
        loss = SupervisedObjective(segmentation=WEIGHTS)(model, batch_of(*counts), TrainingStep(0)).loss
        loss.backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        for name, parameter in model.aggregator.named_parameters():
            assert parameter.grad.abs().sum() > 0, name

    def test_without_any_token_it_is_a_zero_with_a_graph_through_every_part(self):
        model = several_model(frozen_backbone=False)
        batch = batch_of(2, 1)
        losses, _ = rows_of(pass_of(model, batch, missing={0: 3, 1: 3}), batch)
        assert losses.tolist() == [0, 0]
        losses.sum().backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []

    def test_eight_at_once_are_eight_times_one(self):
        model = several_model()
        batch = batch_of(2, 0, 1, 3)
        options = {"segmentation": WEIGHTS, "language_weight": 0.5}

        def gradients(*batches: SegmentationBatch) -> dict[str, Tensor]:
            model.zero_grad()
            for part in batches:
                (SupervisedObjective(**options)(model, part, TrainingStep(0)).loss / len(batches)).backward()
            return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

        together = gradients(batch)
        alone = gradients(*(part_of_batch(batch, [row]) for row in range(4)))
        assert together.keys() == alone.keys()
        for name, gradient in together.items():
            torch.testing.assert_close(alone[name], gradient, atol=2e-5, rtol=1e-3, msg=name)

    def test_supervised_logs(self, model):
        logs = SupervisedObjective()(model, batch_of(2, 0), TrainingStep(0)).logs
        assert {"loss/confidence", "several/confidence_accuracy", "several/merged_fraction"} <= set(logs)
        assert logs["loss/segmentation"] > logs["loss/confidence"] > 0
        assert not any(value.requires_grad for value in logs.values())

    @pytest.mark.parametrize("micro_batch_size", [None, 1, 2])
    def test_joint_training_with_any_micro_batch(self, micro_batch_size):
        """Rewards are of the union, and the format asks for three tokens; pieces of a rollout give the same loss."""
        batch = batch_of(2, 0)
        found = []
        for size in (None, micro_batch_size):
            model = several_model().train()
            objective = GRPOObjective(
                num_generations=4, rollout=ReplayRollout(), advantages=DrGRPOAdvantages(), beta=0.0,
                segmentation=WEIGHTS, micro_batch_size=size,
            )  # fmt: skip
            objective.prepare(model)
            output = objective(model, batch, TrainingStep(0, accumulate=lambda loss: loss.backward()))
            output.loss.backward()
            gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            found.append((output.logs, gradients, output.rollout))
        (logs, gradients, record), (pieced, pieced_gradients, _) = found
        assert logs.keys() == pieced.keys()
        for key, value in logs.items():
            torch.testing.assert_close(pieced[key], value, atol=1e-4, rtol=1e-3, msg=key)
        for name, gradient in gradients.items():
            assert (pieced_gradients[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-5, name
        assert record.present.any()
        assert logs["loss/confidence"] > 0
        assert record.heatmap_logits.shape == (2, 4, 32, 32)


@pytest.mark.slow
def test_two_processes_need_no_unused_parameters_where_nothing_fits_on_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.objectives.several_on_two", str(tmp_path)],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = {name.removeprefix("model."): g for name, g in torch.load(tmp_path / "gradients.pt").items()}
    model = several_model(frozen_backbone=False)
    for counts in ((0, 0), (2, 1)):
        losses, _ = segmentation_rows(pass_of(model, batch_of(*counts)), batch_of(*counts), PAPER_WEIGHTS, FRAME, False)
        (losses.mean() / 2).backward()
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    expected = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    together = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-5 * together, name


class TestAnswers:
    def test_nothing_fits_is_a_mask_that_is_right(self, model):
        batch = batch_of(0)
        output = replace(pass_of(model, batch), confidence_logits=torch.full((1, TOKENS), -2.0))
        _, mask = output.union()
        assert (mask == NO_PRIOR_LOGIT).all()
        assert not batch.masks.any()

    def test_the_default_costs_weigh_like_the_papers_loss(self):
        paper = SegmentationWeights()
        assert (DEFAULT_MATCHING.cost_dice, DEFAULT_MATCHING.cost_focal) == (paper.dice, paper.focal)
