"""The supervised objective on a real small model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from coprs_lightning.geometry import valid_mask
from coprs_lightning.losses.language import completion_cross_entropy
from coprs_lightning.losses.segmentation import SegmentationWeights, resize_target, segmentation_loss
from coprs_lightning.model import CoprsModel
from coprs_lightning.objectives import ObjectiveOutput, SupervisedObjective, TrainingStep
from coprs_lightning.objectives.supervised import masked_segmentation_loss
from coprs_lightning.prompts import parse_completion
from coprs_lightning.structures import Completions, SegmentationBatch, SegmentationOutput
from tests.parts import FRAME, part_of_batch, small_batch, small_model, small_policy

ALL_PARTS = SegmentationWeights(heatmap_bce=1.0, heatmap_dice=0.5, dice=3.0, focal=10.0)


@pytest.fixture(scope="module")
def model() -> CoprsModel:
    """Shared by the tests that do not change it; gradients are cleared by those that make some."""
    return small_model()


@pytest.fixture(scope="module")
def batch() -> SegmentationBatch:
    """Three examples of different sizes, thoughts and questions."""
    return small_batch(3)


def loss_of(model: CoprsModel, batch: SegmentationBatch, step: int = 0, **options: object) -> ObjectiveOutput:
    """One pass of an objective with the given options."""
    output: ObjectiveOutput = SupervisedObjective(**options)(model, batch, TrainingStep(step))  # type: ignore[arg-type]
    return output


def gradients(model: CoprsModel, batches: list[SegmentationBatch], **options: object) -> dict[str, Tensor]:
    """Accumulated gradients of the mean loss over batches."""
    model.zero_grad()
    for batch in batches:
        (loss_of(model, batch, **options).loss / len(batches)).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def pass_of(model: CoprsModel, batch: SegmentationBatch, without_token: tuple[int, ...] = ()) -> SegmentationOutput:
    """A pass over the written thoughts, the token missing in some rows."""
    completions = SupervisedObjective().written_completions(model, batch)
    ids = completions.ids.clone()
    for row in without_token:
        ids[row, ids[row] == model.policy.concentration_id] = 65
    prompts = model.policy.encode_prompts(batch.images, batch.questions)
    output: SegmentationOutput = model(batch, prompts, replace(completions, ids=ids))
    return output


def talkative(token: int, **options: object) -> CoprsModel:
    """A model whose policy writes the same token on every step."""
    model = small_model(**options)  # type: ignore[arg-type]
    asked = nn.functional.one_hot(torch.tensor(token), 1408) * 1000.0
    model.policy.lm.lm_head.register_forward_hook(lambda module, args, output: output + asked)
    return model


class TestTeacherForcing:
    def test_the_loss_is_the_weighted_sum_of_language_and_segmentation(self, model, batch):
        output = loss_of(model, batch, language_weight=0.7, segmentation_weight=0.3, segmentation=ALL_PARTS)
        with torch.no_grad():
            seen = pass_of(model, batch)
            logits = model.policy.completion_logits(seen.policy)
            language = []
            for row in range(3):
                tokens = seen.completions.ids[row][seen.completions.mask[row]]
                scores = logits[row, : len(tokens)].log_softmax(-1)
                language.append(-scores[torch.arange(len(tokens)), tokens].mean())
            segmentation, parts = segmentation_loss(seen.heatmap_logits, seen.mask_logits, batch.masks, ALL_PARTS)
        expected = 0.7 * torch.stack(language).mean() + 0.3 * segmentation.mean()
        torch.testing.assert_close(output.loss.detach(), expected)
        torch.testing.assert_close(output.logs["loss/language"], torch.stack(language).mean())
        torch.testing.assert_close(output.logs["loss/segmentation"], segmentation.mean())
        for name, values in parts.items():
            torch.testing.assert_close(output.logs[f"loss/{name}"], values.mean())
        assert output.logs["loss"] == output.loss
        assert not any(value.requires_grad for value in output.logs.values())
        names = ("language", "segmentation", "heatmap_bce", "heatmap_dice", "dice", "focal")
        assert set(output.logs) == {"loss", *(f"loss/{name}" for name in names)}

    def test_thoughts_are_taught_where_there_are_some_and_the_fallback_elsewhere(self, model, batch):
        some = replace(batch, reasonings=[None, "it is red", "  "])
        objective = SupervisedObjective(fallback_thought="look for {question}")
        texts = objective.written_completions(model, some).texts
        thoughts = [parse_completion(text).thought for text in texts]
        assert thoughts == [
            " ".join(f"look for {batch.questions[0]}".split()),
            "it is red",
            " ".join(f"look for {batch.questions[2]}".split()),
        ]
        assert all(parse_completion(text).well_formed for text in texts)

    def test_the_fallback_is_the_question(self, model, batch):
        texts = SupervisedObjective().written_completions(model, replace(batch, reasonings=[None] * 3)).texts
        assert [parse_completion(text).thought for text in texts] == [" ".join(q.split()) for q in batch.questions]

    @pytest.mark.parametrize(("step", "expected"), [(0, 3.0), (299, 3.0), (300, 2.0), (10_000, 2.0)])
    def test_the_coefficients_switch(self, step, expected):
        objective = SupervisedObjective(later_segmentation=SegmentationWeights(dice=2.0, focal=5.0), switch_step=300)
        assert objective.schedule.at(step).dice == expected

    def test_the_switch_changes_the_loss_from_its_step_on(self, model, batch):
        scripts = {
            "segmentation": SegmentationWeights(heatmap_dice=0.8, dice=0.8, focal=0.0),
            "later_segmentation": SegmentationWeights(heatmap_dice=2.0, dice=2.0, focal=5.0),
            "switch_step": 300,
        }
        for step, weights in ((299, scripts["segmentation"]), (300, scripts["later_segmentation"])):
            logs = loss_of(model, batch, step, **scripts).logs
            expected = sum(
                getattr(weights, n) * logs[f"loss/{n}"] for n in ("heatmap_bce", "heatmap_dice", "dice", "focal")
            )
            torch.testing.assert_close(logs["loss/segmentation"], expected)

    def test_without_a_switch_the_first_coefficients_stay(self):
        objective = SupervisedObjective(later_segmentation=SegmentationWeights(dice=2.0))
        assert objective.schedule.at(10**9) == SegmentationWeights()

    def test_a_switch_to_nothing_is_refused(self):
        with pytest.raises(
            ValueError, match=r"objective\.switch_step is 300 but objective\.later_segmentation is null"
        ):
            SupervisedObjective(switch_step=300)


class TestRowsWithoutToken:
    def loss(self, output: SegmentationOutput, batch: SegmentationBatch) -> tuple[Tensor, dict[str, Tensor]]:
        return masked_segmentation_loss(output, batch, ALL_PARTS, FRAME, ignore_padding=False)

    def test_they_take_no_part(self, model, batch):
        loss, parts = self.loss(pass_of(model, batch, without_token=(1,)), batch)
        expected, expected_parts = self.loss(pass_of(model, part_of_batch(batch, [0, 2])), part_of_batch(batch, [0, 2]))
        torch.testing.assert_close(loss, expected)
        for name, value in expected_parts.items():
            torch.testing.assert_close(parts[name], value)
        assert loss.isfinite()

    def test_none_at_all_is_a_zero_with_a_graph_through_every_part(self):
        model = small_model(frozen_backbone=False)
        batch = small_batch(2)
        output = pass_of(model, batch, without_token=(0, 1))
        loss, parts = self.loss(output, batch)
        assert loss.item() == 0
        assert parts == {}
        loss.backward()
        without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []  # every process of a distributed run reduces the same gradients
        assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)

    def test_none_at_all_is_zero_in_half_precision_whatever_the_padding_holds(self, model, batch):
        """Plain sums overflow float16, and infinity times zero is NaN."""
        output = pass_of(model, batch, without_token=(0, 1, 2))
        hidden = torch.full_like(output.policy.hidden, 100.0).masked_fill(
            ~output.policy.attention_mask[..., None], torch.nan
        )
        half = replace(
            output,
            mask_logits=output.mask_logits.half().repeat(1, 1, 8, 8),
            policy=replace(output.policy, hidden=hidden.half().repeat(1, 1, 16)),
        )
        assert half.mask_logits.sum().isinf()
        assert self.loss(half, batch)[0] == 0

    def test_the_language_loss_stays(self, batch):
        """Own completions without a token: what is written is still taught."""
        model = talkative(65)
        output = loss_of(model, batch, own_completions_every=1, max_new_tokens=2)
        assert output.logs["own/token_rate"] == 0
        assert output.logs["loss/segmentation"] == 0
        assert output.loss == output.logs["loss/language"] > 0
        output.loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


class TestOwnCompletions:
    @pytest.mark.parametrize(
        ("every", "start", "steps"), [(0, 0, []), (1, 0, [0, 1, 2, 3, 4, 5, 6]), (2, 3, [4, 6]), (3, 0, [0, 3, 6])]
    )
    def test_which_steps(self, every, start, steps):
        objective = SupervisedObjective(own_completions_every=every, own_completions_from=start)
        assert [step for step in range(7) if objective._uses_own(step)] == steps

    def test_the_segmentation_loss_is_on_them_and_the_language_loss_on_the_written_ones(self, batch):
        model = talkative(small_policy().concentration_id)
        plain = loss_of(model, batch, 1, own_completions_every=2, own_temperature=0.0, max_new_tokens=2)
        own = loss_of(model, batch, 2, own_completions_every=2, own_temperature=0.0, max_new_tokens=2)
        assert "own/token_rate" not in plain.logs
        assert own.logs["own/token_rate"] == 1
        torch.testing.assert_close(own.logs["loss/language"], plain.logs["loss/language"])
        prompts = model.policy.encode_prompts(batch.images, batch.questions)
        completions = model.policy.generate(prompts, max_new_tokens=2)
        assert (completions.ids == model.policy.concentration_id).all()
        with torch.no_grad():
            output = model(batch, prompts, completions)
            expected, _ = masked_segmentation_loss(output, batch, SegmentationWeights(), FRAME, ignore_padding=False)
        torch.testing.assert_close(own.logs["loss/segmentation"], expected)
        assert not torch.isclose(own.logs["loss/segmentation"], plain.logs["loss/segmentation"])

    def test_gradients_flow_through_them(self, batch):
        model = talkative(small_policy().concentration_id)
        found = gradients(model, [batch], language_weight=0.0, own_completions_every=1, max_new_tokens=2)
        for part in (
            "policy.lm.model.language_model.embed_tokens",
            "policy.lm.model.visual",
            "heatmap_head",
            "decoder",
        ):
            assert sum(g.abs().sum() for name, g in found.items() if name.startswith(part)) > 0

    def test_they_are_sampled_at_their_temperature_and_length(self, model, batch):
        """The state of the random numbers shows that sampling took place."""
        torch.manual_seed(0)
        before = torch.random.get_rng_state()
        loss_of(model, batch, own_completions_every=1, own_temperature=0.0, max_new_tokens=3)
        assert torch.equal(torch.random.get_rng_state(), before)
        loss_of(model, batch, own_completions_every=1, own_temperature=1.0, max_new_tokens=3)
        assert not torch.equal(torch.random.get_rng_state(), before)


class TestPadding:
    def test_it_counts_as_background_unless_ignored(self, model, batch):
        """Logits on the padding alone are changed."""
        output = pass_of(model, batch)
        image = valid_mask(batch.valid_sizes, (32, 32), FRAME)
        assert not image.all()
        changed = replace(
            output,
            heatmap_logits=torch.where(image, output.heatmap_logits, 9.0),
            mask_logits=torch.where(image, output.mask_logits, 9.0),
        )

        def loss(seen: SegmentationOutput, ignore_padding: bool) -> Tensor:
            return masked_segmentation_loss(seen, batch, ALL_PARTS, FRAME, ignore_padding)[0]

        torch.testing.assert_close(loss(changed, True), loss(output, True))
        assert not torch.isclose(loss(changed, False), loss(output, False))
        assert not torch.isclose(loss(output, True), loss(output, False))

    def test_ignoring_it_is_the_loss_over_the_image_alone(self, model, batch):
        output = pass_of(model, batch)
        loss, parts = masked_segmentation_loss(output, batch, ALL_PARTS, FRAME, ignore_padding=True)
        rows = []
        for row, (height, width) in enumerate(batch.valid_sizes.tolist()):
            window = (slice(row, row + 1), slice(None), slice(height), slice(width))
            rows.append(
                segmentation_loss(
                    output.heatmap_logits[window], output.mask_logits[window], batch.masks[window], ALL_PARTS
                )[0]
            )
        torch.testing.assert_close(loss, torch.cat(rows).mean())
        assert set(parts) == {f"loss/{name}" for name in ("heatmap_bce", "heatmap_dice", "dice", "focal")}

    def test_rows_without_a_token_do_not_shift_the_sizes(self, model, batch):
        output = pass_of(model, batch, without_token=(0,))
        rest = part_of_batch(batch, [1, 2])
        loss = masked_segmentation_loss(output, batch, ALL_PARTS, FRAME, ignore_padding=True)[0]
        expected = masked_segmentation_loss(pass_of(model, rest), rest, ALL_PARTS, FRAME, ignore_padding=True)[0]
        torch.testing.assert_close(loss, expected)

    def test_the_option_reaches_the_loss(self, model, batch):
        counted, ignored = (
            loss_of(model, batch, ignore_padding=flag).logs["loss/segmentation"] for flag in (False, True)
        )
        output = pass_of(model, batch)
        expected = masked_segmentation_loss(output, batch, SegmentationWeights(), FRAME, ignore_padding=True)[0]
        torch.testing.assert_close(ignored, expected.detach())
        assert not torch.isclose(counted, ignored)


class TestGradients:
    def test_the_segmentation_loss_alone_reaches_every_part_through_the_token(self):
        model = small_model(frozen_backbone=False)
        found = gradients(model, [small_batch(3)], language_weight=0.0, segmentation=ALL_PARTS)
        for part in (
            "policy.lm.model.language_model.embed_tokens", "policy.lm.model.language_model.layers.0.mlp",
            "policy.lm.model.visual.patch_embed", "backbone", "heatmap_head.q_proj", "heatmap_head.k_proj",
            "heatmap_head.fuser", "decoder.reduce", "decoder.head",
        ):  # fmt: skip
            assert sum(g.abs().sum() for name, g in found.items() if name.startswith(part)) > 0, part
        row = found["policy.lm.model.language_model.embed_tokens.weight"][model.policy.concentration_id]
        assert row.abs().sum() > 0

    def test_without_the_token_the_segmentation_loss_reaches_nothing_of_the_policy(self, batch):
        model = talkative(65)
        found = gradients(model, [batch], language_weight=0.0, own_completions_every=1, max_new_tokens=2)
        assert found
        assert all((gradient == 0).all() for gradient in found.values())

    def test_a_frozen_backbone_gets_none(self, model, batch):
        assert not any(name.startswith("backbone") for name in gradients(model, [batch]))

    def test_a_frozen_policy_leaves_the_parts_after_it_to_train(self, batch):
        frozen = small_model(policy=small_policy(frozen=True))
        found = gradients(frozen, [batch])
        assert not any(name.startswith("policy") for name in found)
        assert any(name.startswith("heatmap_head") for name in found)

    @pytest.mark.parametrize("ignore_padding", [False, True])
    def test_accumulating_eight_singles_is_one_batch_of_eight(self, ignore_padding):
        """In double precision, so that what is left is no rounding."""
        model = small_model().double()
        eight = small_batch(8)
        options = {"segmentation": ALL_PARTS, "segmentation_weight": 0.3, "ignore_padding": ignore_padding}
        together = gradients(model, [eight], **options)
        singles = gradients(model, [part_of_batch(eight, [row]) for row in range(8)], **options)
        assert together.keys() == singles.keys()
        scale = max(gradient.abs().max() for gradient in together.values())
        for name, gradient in together.items():
            error = (singles[name] - gradient).norm() / gradient.norm().clamp_min(1e-6 * scale)
            assert error <= 1e-5, name

    def test_the_order_and_the_padding_of_a_batch_do_not_matter(self, model):
        four = small_batch(4)
        expected = loss_of(model, four, segmentation=ALL_PARTS).loss
        turned = loss_of(model, part_of_batch(four, [3, 1, 0, 2]), segmentation=ALL_PARTS).loss
        torch.testing.assert_close(turned, expected, atol=1e-5, rtol=1e-5)
        singles = [loss_of(model, part_of_batch(four, [row]), segmentation=ALL_PARTS).loss for row in range(4)]
        torch.testing.assert_close(torch.stack(singles).mean(), expected, atol=1e-5, rtol=1e-5)
        assert torch.stack(singles).std() > 0.01


def test_several_tokens_are_joined_by_their_largest_logit(model, batch):
    """K > 1: a row with at least one token is segmented, by the union of its maps."""
    output = pass_of(model, batch)
    generator = torch.Generator().manual_seed(0)
    more = torch.randn(3, 1, 32, 32, generator=generator)
    double = replace(
        output,
        heatmap_logits=torch.cat([output.heatmap_logits, more], 1),
        mask_logits=torch.cat([output.mask_logits, more], 1),
        present=torch.tensor([[True, True], [False, False], [True, True]]),
    )
    loss, _ = masked_segmentation_loss(double, batch, ALL_PARTS, FRAME, ignore_padding=False)
    rows = [0, 2]
    heat, mask = (
        torch.maximum(output.heatmap_logits[rows], more[rows]),
        torch.maximum(output.mask_logits[rows], more[rows]),
    )
    expected, _ = segmentation_loss(heat, mask, resize_target(batch.masks[rows], (32, 32)), ALL_PARTS)
    torch.testing.assert_close(loss, expected.mean())


def test_the_language_loss_is_of_the_written_completions_only(model, batch):
    """Prompt tokens are given, not learned: the loss follows from the completion's logits alone."""
    seen = pass_of(model, batch)
    written: Completions = seen.completions
    with torch.no_grad():
        expected = completion_cross_entropy(
            model.policy.completion_logits(seen.policy), written.ids, written.mask
        ).mean()
    torch.testing.assert_close(loss_of(model, batch).logs["loss/language"], expected)
