"""Joint training on a real small model: its loss from the equations, and what must not change it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from coprs_lightning.losses.segmentation import SegmentationWeights, segmentation_loss
from coprs_lightning.model import CoprsModel
from coprs_lightning.objectives import GRPOObjective, ObjectiveOutput, TrainingStep
from coprs_lightning.policies import Policy
from coprs_lightning.rl.advantages import DrGRPOAdvantages
from coprs_lightning.rl.references import FrozenCopyReference
from coprs_lightning.rl.rewards import RewardInputs, WeightedSumReward
from coprs_lightning.rl.rollouts import TransformersRollout
from coprs_lightning.structures import Completions, Prompts, SegmentationBatch
from tests.objectives.replay import ReplayRollout
from tests.parts import part_of_batch, small_batch, small_model

GROUP, BETA, SEGMENTATION = 4, 0.3, 0.5
WEIGHTS = SegmentationWeights(heatmap_bce=1.0, heatmap_dice=0.5, dice=3.0, focal=10.0)


@pytest.fixture(scope="module")
def batch() -> SegmentationBatch:
    """Four examples of different sizes and questions."""
    return small_batch(4)


@pytest.fixture
def model() -> CoprsModel:
    return small_model().train()


def objective_of(model: CoprsModel, **options: Any) -> GRPOObjective:
    """A prepared objective over replayed completions, its reference a policy a little off the trained one."""
    given: dict[str, Any] = {
        "num_generations": GROUP,
        "rollout": ReplayRollout(temperature=1.3),
        "beta": BETA,
        "segmentation_weight": SEGMENTATION,
        "segmentation": WEIGHTS,
    }
    objective = GRPOObjective(**{**given, **options})
    head = model.policy.lm.lm_head.weight
    with torch.no_grad():
        head.mul_(1.1)
        objective.prepare(model)
        head.div_(1.1)
    return objective


def steady(model: CoprsModel, **options: Any) -> GRPOObjective:
    """Without the division by the group's deviation, which amplifies the rounding of masks that are nearly alike."""
    return objective_of(model, advantages=DrGRPOAdvantages(), **options)


def run(
    model: CoprsModel, objective: GRPOObjective, batch: SegmentationBatch, **where: Any
) -> tuple[ObjectiveOutput, dict[str, Tensor], int]:
    """Loss, gradients of all parts of it, and how many parts were passed backward before the last."""
    model.zero_grad()
    parts: list[Tensor] = []

    def accumulate(loss: Tensor) -> None:
        loss.backward()
        parts.append(loss.detach())

    output: ObjectiveOutput = objective(model, batch, TrainingStep(**{"number": 0, "accumulate": accumulate, **where}))
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return output, gradients, len(parts)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """All gradients together within 1e-4, each within 1e-3."""
    assert found.keys() == expected.keys()
    together = torch.cat([gradient.flatten() for gradient in expected.values()])
    difference = torch.cat([(found[name] - gradient).flatten() for name, gradient in expected.items()])
    assert difference.norm() <= 1e-4 * together.norm()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-5 * together.norm(), name


class TestEquations:
    def test_the_loss_is_the_papers_written_out(self, model, batch):
        objective = objective_of(model)
        output, _, _ = run(model, objective, batch)
        # one sequence at a time, plain logits, the advantages and losses of every token in loops
        policy = model.policy
        total = torch.zeros(())
        with torch.no_grad():
            for row in range(len(batch)):
                alone = batch.part(row, row + 1)
                prompts = policy.encode_prompts(alone.images, alone.questions)
                written = objective.rollout.sample(policy, prompts, GROUP)
                rewards, terms, tokens = [], [], int(written.mask.sum())
                for number in range(GROUP):
                    one = written.part(number, number + 1)
                    seen = model(alone, prompts, one)
                    inputs = RewardInputs(
                        questions=alone.questions,
                        texts=one.texts,
                        truncated=one.truncated,
                        present=seen.present[:, 0],
                        masks=seen.mask_logits[:, 0].sigmoid(),
                        heatmaps=seen.heatmap_logits[:, 0].sigmoid(),
                        targets=alone.masks[:, 0],
                        valid_sizes=alone.valid_sizes,
                    )
                    rewards.append(WeightedSumReward()(inputs).item())
                    with objective.reference.use(policy) as reference:
                        start = reference.completion_logits(reference(prompts, one))
                    now = policy.completion_logits(seen.policy)
                    terms.append([])
                    for step, word in enumerate(one.ids[0][one.mask[0]].tolist()):
                        scores = [logits[0, step] / 1.3 for logits in (now, start)]
                        for score in scores:
                            score[policy._forbidden_ids] = -torch.inf
                        mine, theirs = (score.log_softmax(-1)[word] for score in scores)
                        terms[-1].append((theirs - mine).exp() - (theirs - mine) - 1)
                    if seen.present.any():
                        loss, _ = segmentation_loss(seen.heatmap_logits, seen.mask_logits, alone.masks, WEIGHTS)
                        total += SEGMENTATION * loss[0] / (GROUP * len(batch))
                spread = torch.tensor(rewards)
                advantages = (spread - spread.mean()) / (spread.std() + 1e-6)
                for advantage, kls in zip(advantages, terms, strict=True):
                    total += sum(-advantage + BETA * kl for kl in kls) / tokens / len(batch)  # the ratio is 1
        torch.testing.assert_close(output.loss.detach(), total, rtol=2e-4, atol=2e-5)

    def test_the_policy_gradient_is_that_of_advantage_times_log_probability(self, model, batch):
        objective = objective_of(model, segmentation_weight=0.0, beta=0.0)
        _, found, _ = run(model, objective, batch)
        policy = model.policy
        prompts = policy.encode_prompts(batch.images, batch.questions)
        written = objective.rollout.sample(policy, prompts, GROUP)
        output = model(batch, prompts, written)
        tokens = policy.log_probs(output.policy, written, temperature=1.3).log_probs
        objective.forward(model, batch, TrainingStep(0))
        record = objective.forward(model, batch, TrainingStep(0)).rollout
        weights = written.mask / written.mask.view(4, -1).sum(1).repeat_interleave(GROUP)[:, None] / 4
        (-(record.advantages.view(-1, 1) * tokens * weights).sum()).backward()
        expected = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
        assert_same({name: found[f"policy.{name}"] for name in expected}, expected)

    def test_segmentation_flows_through_the_token_into_the_policy(self, model, batch):
        _, gradients, _ = run(model, objective_of(model, policy_weight=0.0), batch)
        inside = [name for name in gradients if "language_model.layers.0" in name or "visual.blocks" in name]
        assert inside
        assert all(gradients[name].norm() > 0 for name in inside if "bias" not in name)

    def test_reinforcement_alone_moves_no_segmentation_part(self, model, batch):
        _, gradients, _ = run(model, objective_of(model, segmentation_weight=0.0), batch)
        parts = [gradient.abs().max() for name, gradient in gradients.items() if not name.startswith("policy.")]
        assert parts
        assert max(parts) == 0
        assert gradients["policy.lm.model.language_model.norm.weight"].norm() > 0

    def test_the_entropy_bonus_makes_the_distribution_flatter(self, model, batch):
        objective = objective_of(model, entropy_weight=1.0, beta=0.0, segmentation_weight=0.0, epsilon=0.5)
        objective.advantages = _NoAdvantages()
        before = run(model, objective, batch)[0].logs["entropy"]
        _, gradients, _ = run(model, objective, batch)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in gradients:
                    parameter -= 1e-3 * gradients[name]
        assert run(model, objective, batch)[0].logs["entropy"] > before


class _NoAdvantages:
    least_group_size = 1

    def __call__(self, rewards: Tensor) -> Tensor:
        return torch.zeros_like(rewards)


class _Spent(ReplayRollout):
    def sample(self, policy: Policy, prompts: Prompts, num_generations: int) -> Completions:
        raise AssertionError("sampled again")


class TestInvariance:
    @pytest.mark.parametrize("size", [1, 3, 4, 8, 100])
    def test_micro_batches_change_nothing(self, model, batch, size):
        whole, expected, _ = run(model, steady(model), batch)
        cut, found, parts = run(model, steady(model, micro_batch_size=size), batch)
        assert parts == {1: 15, 3: 7, 4: 3, 8: 1, 100: 0}[size]
        assert_same(found, expected)
        assert whole.logs.keys() == cut.logs.keys()
        for key, value in whole.logs.items():
            torch.testing.assert_close(cut.logs[key], value, rtol=1e-4, atol=1e-5, msg=key)
        assert cut.rollout.texts == whole.rollout.texts
        torch.testing.assert_close(cut.rollout.mask_logits, whole.rollout.mask_logits, rtol=1e-3, atol=1e-3)

    def test_micro_batches_change_nothing_where_the_backbone_learns(self, batch):
        results = []
        for size in (None, 3):
            model = small_model(frozen_backbone=False).eval()
            results.append(run(model, steady(model, micro_batch_size=size), batch)[1])
        assert any(name.startswith("backbone") for name in results[0])
        assert_same(results[1], results[0])

    def test_accumulating_over_single_examples_is_one_batch(self, model, batch):
        objective = steady(model)
        _, expected, _ = run(model, objective, batch)
        singles = [run(model, objective, batch.part(row, row + 1))[1] for row in range(4)]
        assert_same({name: sum(single[name] for single in singles) / 4 for name in expected}, expected)

    def test_the_order_of_the_batch_does_not_matter(self, model, batch):
        objective = steady(model)
        first, expected, _ = run(model, objective, batch)
        second, found, _ = run(model, objective, part_of_batch(batch, [2, 0, 3, 1]))
        torch.testing.assert_close(first.loss, second.loss)
        assert_same(found, expected)

    def test_separate_sequences_give_the_same(self, model, batch):
        shared, expected, _ = run(model, steady(model), batch)
        model.policy.shared_prefix = False
        separate, found, _ = run(model, steady(model), batch)
        assert_same(found, expected)
        for key, value in shared.logs.items():
            torch.testing.assert_close(separate.logs[key], value, rtol=1e-4, atol=1e-5, msg=key)
        for name in ("heatmap_logits", "mask_logits"):
            one, other = getattr(shared.rollout, name), getattr(separate.rollout, name)
            assert (one - other).norm() <= 1e-4 * other.norm(), name


class TestSeveralUpdates:
    def test_the_first_update_is_that_of_one(self, model, batch):
        one, expected, _ = run(model, objective_of(model), batch)
        several, found, _ = run(model, objective_of(model, updates_per_batch=3), batch)
        torch.testing.assert_close(one.loss, several.loss)
        assert_same(found, expected)

    @pytest.mark.parametrize("size", [None, 5])
    def test_later_updates_use_the_first_ones_completions_and_ratio(self, model, batch, size):
        objective = objective_of(model, updates_per_batch=2, micro_batch_size=size)
        first, gradients, _ = run(model, objective, batch)
        assert first.logs["ratio_max"] == pytest.approx(1.0, abs=1e-4)
        assert first.logs["clip_ratio"] == 0
        with torch.no_grad():
            for name, parameter in model.policy.named_parameters():
                parameter -= 0.05 * gradients[f"policy.{name}"]
        objective.rollout = _Spent(temperature=1.3)
        second, _, _ = run(model, objective, batch, update=1)
        assert second.rollout.texts == first.rollout.texts
        torch.testing.assert_close(second.rollout.advantages, first.rollout.advantages)
        assert second.logs["ratio_max"] > 1.01
        assert second.logs["clip_ratio"] > 0
        assert objective._current is None

    def test_an_update_without_a_rollout_is_refused(self, model, batch):
        with pytest.raises(RuntimeError, match="update 1 of a batch that was never sampled"):
            run(model, objective_of(model, updates_per_batch=2), batch, update=1)


class TestCompletions:
    def test_a_rollout_without_any_token_learns_by_format_alone(self, model, batch):
        objective = objective_of(model, rollout=TransformersRollout(max_new_tokens=3, temperature=1.0))
        output, gradients, _ = run(model, objective, batch)
        logs = output.logs
        assert logs["completions/token_rate"] == 0
        assert logs["completions/truncated_fraction"] > 0.9
        assert logs["completions/malformed_fraction"] == 1
        assert logs["loss/segmentation"] == 0
        assert logs["reward/total"] == 0
        assert logs["frac_reward_zero_std"] == 1
        assert logs["completions/max_length"] == 3
        assert output.loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients.values())

    def test_completions_without_a_token_carry_no_segmentation_loss(self, model, batch):
        output, _, _ = run(model, objective_of(model, policy_weight=0.0), batch)
        record = output.rollout
        absent = ~record.present
        assert 0 < absent.sum() < absent.numel()
        assert (record.reward_parts["mask"][absent] == 0).all()
        with_token = objective_of(model, policy_weight=0.0)
        prompts = model.policy.encode_prompts(batch.images, batch.questions)
        written = with_token.rollout.sample(model.policy, prompts, GROUP)
        with torch.no_grad():
            seen = model(batch, prompts, written)
            rows = seen.present[:, 0]
            targets = batch.masks.repeat_interleave(GROUP, 0)
            losses, _ = segmentation_loss(seen.heatmap_logits[rows], seen.mask_logits[rows], targets[rows], WEIGHTS)
        torch.testing.assert_close(output.logs["loss/segmentation"], losses.sum() / len(rows))

    def test_the_rollout_is_written_by_the_weights_being_trained(self, model, batch):
        objective = objective_of(model, rollout=TransformersRollout(max_new_tokens=6, temperature=0.01))
        before = run(model, objective, batch)[0].rollout.texts
        again = run(model, objective, batch)[0].rollout.texts
        assert before == again
        with torch.no_grad():
            model.policy.lm.lm_head.weight[77] += 10 * model.policy.lm.lm_head.weight.abs().amax()
        assert run(model, objective, batch)[0].rollout.texts != before

    def test_the_kl_term_is_zero_at_the_start_and_grows(self, model, batch):
        objective = GRPOObjective(num_generations=GROUP, rollout=ReplayRollout(), beta=1.0)
        objective.prepare(model)
        assert run(model, objective, batch)[0].logs["kl"] == pytest.approx(0.0, abs=1e-5)
        with torch.no_grad():
            model.policy.lm.lm_head.weight.mul_(1.2)
        assert run(model, objective, batch)[0].logs["kl"] > 1e-3

    def test_an_example_with_nothing_to_find_is_no_trouble(self, model, batch):
        empty = replace(batch, original_masks=[torch.zeros_like(mask) for mask in batch.original_masks])
        output, gradients, _ = run(model, objective_of(model), empty)
        assert output.loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients.values())


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_generations": 1}, "num_generations is 1.*GroupRelativeAdvantages.*at least 2"),
            ({"num_generations": 0}, "num_generations must be a positive integer"),
            ({"updates_per_batch": 0}, "updates_per_batch must be a positive integer"),
            ({"micro_batch_size": 0}, "micro_batch_size must be a positive integer"),
            ({"epsilon": 1.5}, "epsilon is 1.5"),
            ({"epsilon_high": 0.0}, "epsilon_high 0.0"),
            ({"beta": -0.1}, "beta must be ≥ 0"),
            ({"switch_step": 3}, "later_segmentation is null"),
        ],
    )
    def test_options_out_of_range_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            GRPOObjective(**options)

    def test_a_kl_term_needs_its_reference(self, model, batch):
        objective = GRPOObjective(num_generations=2, rollout=ReplayRollout())
        with pytest.raises(RuntimeError, match="beta is not 0 and there is no reference"):
            objective(model, batch, TrainingStep(0))

    def test_micro_batches_need_somebody_who_runs_their_backward_pass(self, model, batch):
        objective = objective_of(model, micro_batch_size=2)
        with pytest.raises(RuntimeError, match=r"TrainingStep\(accumulate=…\)"):
            objective(model, batch, TrainingStep(0))

    def test_full_training_keeps_a_frozen_copy(self, model):
        objective = GRPOObjective()
        objective.prepare(model)
        assert isinstance(objective.reference, FrozenCopyReference)
        assert not list(objective.parameters())
        objective.check_checkpoint_state(objective.checkpoint_state())

    def test_without_kl_there_is_no_reference(self, model):
        objective = GRPOObjective(beta=0.0)
        objective.prepare(model)
        assert objective.reference is None
        assert objective.checkpoint_state() == {}

    def test_the_coefficients_switch(self, model, batch):
        later = SegmentationWeights(dice=0.0, focal=0.0, heatmap_bce=0.0)
        objective = objective_of(model, later_segmentation=later, switch_step=3)
        assert run(model, objective, batch, number=2)[0].logs["loss/segmentation"] > 0
        assert run(model, objective, batch, number=3)[0].logs["loss/segmentation"] == 0
