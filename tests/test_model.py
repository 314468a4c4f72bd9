"""The whole model: sizes, freezing, absent tokens, and segmenting end to end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from coprs_lightning.aggregators import AttentionPoolAggregator, LastTokenAggregator, MultiTokenAggregator
from coprs_lightning.backbones import TimmBackbone
from coprs_lightning.decoders import ConvMaskDecoder
from coprs_lightning.geometry import restore
from coprs_lightning.heatmap_heads import CrossAttentionHead
from coprs_lightning.inference import batch_from_images
from coprs_lightning.model import CoprsModel
from coprs_lightning.prompts import several_prompt
from coprs_lightning.structures import NO_PRIOR_LOGIT, Completions, SegmentationBatch, SegmentationOutput
from tests.parts import CHANNELS, FRAME, part_of_batch, photos, small_batch, small_model, small_policy


@pytest.fixture(scope="module")
def model() -> CoprsModel:
    """Shared by the tests that do not change it."""
    return small_model()


@pytest.fixture(scope="module")
def batch() -> SegmentationBatch:
    """Three examples of different sizes."""
    return small_batch(3)


def written(model: CoprsModel, batch: SegmentationBatch) -> Completions:
    """The completions of the batch's own thoughts."""
    return model.policy.encode_completions([thought or "" for thought in batch.reasonings])


def run(model: CoprsModel, batch: SegmentationBatch, completions: Completions | None = None) -> SegmentationOutput:
    """A pass without gradients."""
    with torch.no_grad():
        prompts = model.policy.encode_prompts(batch.images, batch.questions)
        return model(batch, prompts, written(model, batch) if completions is None else completions)


def with_ids(completions: Completions, row: int, old: int, new: int) -> Completions:
    """Another token in place of ``old`` in one row."""
    ids = completions.ids.clone()
    ids[row, ids[row] == old] = new
    return replace(completions, ids=ids)


class TestSizes:
    @pytest.mark.parametrize(
        ("slot", "build", "message"),
        [
            (
                "aggregator",
                lambda: LastTokenAggregator(hidden_size=16),
                r"HFPolicy \(model\.policy\) has hidden_size 32, but LastTokenAggregator \(model\.aggregator\) was "
                r"built with hidden_size 16\. Leave model\.aggregator\.init_args\.hidden_size out",
            ),
            (
                "heatmap_head",
                lambda: CrossAttentionHead(query_dim=16, in_channels=CHANNELS, dim=16),
                r"\(model\.aggregator\) has query_dim 32, but CrossAttentionHead \(model\.heatmap_head\) was built "
                r"with query_dim 16\. Leave model\.heatmap_head\.init_args\.query_dim out",
            ),
            (
                "heatmap_head",
                lambda: CrossAttentionHead(query_dim=32, in_channels=8, dim=16),
                r"TimmBackbone \(model\.backbone\) has out_channels 32, but CrossAttentionHead .* in_channels 8\.",
            ),
            (
                "decoder",
                lambda: ConvMaskDecoder(in_channels=8, hidden=8),
                r"\(model\.backbone\) has out_channels 32, but ConvMaskDecoder \(model\.decoder\) .* in_channels 8\. "
                r"Leave model\.decoder\.init_args\.in_channels out of the config: it follows model\.backbone",
            ),
        ],
    )
    def test_parts_that_do_not_fit_are_refused(self, model, slot, build, message):
        with pytest.raises(ValueError, match="sizes do not fit: .*" + message):
            small_model(policy=model.policy, **{slot: build()})

    @pytest.mark.parametrize(
        ("tokens", "aggregator", "message"),
        [
            (
                3,
                lambda: LastTokenAggregator(hidden_size=32),
                r"have 3 .*prompt\.num_tokens.*LastToken.* 1\.",
            ),
            (1, lambda: MultiTokenAggregator(hidden_size=32, num_tokens=2), r"have 1 .*such as LastTokenAggregator"),
            (2, lambda: MultiTokenAggregator(hidden_size=32, num_tokens=3), r".*Set prompt\.num_tokens: 3, or"),
        ],
    )
    def test_another_number_of_tokens_than_the_prompt_asks_for_is_refused(self, tokens, aggregator, message):
        with pytest.raises(ValueError, match="sizes do not fit: completions " + message):
            small_model(policy=small_policy(prompt=several_prompt(tokens)), aggregator=aggregator())

    def test_several_tokens_give_as_many_heatmaps_masks_and_confidences(self, batch):
        model = small_model(
            policy=small_policy(prompt=several_prompt(3)), aggregator=MultiTokenAggregator(hidden_size=32, num_tokens=3)
        )
        completions = written(model, batch)
        assert all(text.count("<REF_POS>") == 3 for text in completions.texts)
        ids = completions.ids.clone()
        last = (ids[1] == model.policy.concentration_id).nonzero()[-1]
        ids[1, last] = 65
        output = run(model, batch, replace(completions, ids=ids))
        assert output.policy.token_mask.sum(1).tolist() == [3, 2, 3]
        assert output.heatmap_logits.shape == output.mask_logits.shape == (3, 3, 32, 32)
        assert output.present.tolist() == [[True] * 3, [True, True, False], [True] * 3]
        assert output.confidence_logits.shape == (3, 3)
        assert (output.mask_logits[1, 2] == NO_PRIOR_LOGIT).all()
        assert not torch.equal(output.mask_logits[0, 0], output.mask_logits[0, 1])

    def test_logits_cover_the_frame(self, model, batch):
        output = run(model, batch)
        assert model.image_size == FRAME
        assert output.heatmap_logits.shape == (3, 1, 32, 32)
        assert output.mask_logits.shape == (3, 1, 32, 32)
        assert output.present.tolist() == [[True]] * 3
        assert output.completions.texts == written(model, batch).texts

    def test_the_five_parts_by_slot(self, model):
        assert list(model.components()) == ["policy", "backbone", "aggregator", "heatmap_head", "decoder"]
        assert {id(p) for c in model.components().values() for p in c.parameters()} == {
            id(p) for p in model.parameters()
        }


class TestAbsentTokens:
    def test_without_the_token_there_is_no_prior(self, model, batch):
        completions = with_ids(written(model, batch), 1, model.policy.concentration_id, 65)
        output = run(model, batch, completions)
        assert output.present.tolist() == [[True], [False], [True]]
        for logits in (output.heatmap_logits, output.mask_logits):
            assert (logits[1] == NO_PRIOR_LOGIT).all()
            assert (logits[[0, 2]] != NO_PRIOR_LOGIT).any()
        expected = run(model, batch)
        torch.testing.assert_close(output.mask_logits[[0, 2]], expected.mask_logits[[0, 2]])

    def test_the_last_of_two_tokens_is_used(self, model, batch):
        """A second token later on takes over; an earlier one only changes what the last one has read."""
        policy = model.policy
        text = "<think> it is red </think> <REF_POS> or rather <REF_POS>"
        ids = torch.tensor([policy.tokenizer(text, add_special_tokens=False)["input_ids"]])
        one = part_of_batch(batch, [0])
        double = Completions(ids, torch.ones_like(ids, dtype=torch.bool), [text], torch.tensor([False]))
        output = run(model, one, double)
        columns = output.policy.token_mask[0].nonzero().flatten()
        assert len(columns) == 2
        with torch.no_grad():
            by_position = [
                model.heatmap_head(output.policy.hidden[:, column][:, None], model.features(one)) for column in columns
            ]
        torch.testing.assert_close(output.heatmap_logits, by_position[1])
        assert not torch.allclose(output.heatmap_logits, by_position[0], atol=1e-3)


class TestFeatures:
    def test_a_frozen_backbone_has_no_graph_and_stays_in_eval(self, batch):
        model = small_model().train()
        assert model.policy.training
        assert not any(module.training for module in model.backbone.modules())
        assert not model.features(batch).requires_grad
        model.backbone.requires_grad_(True)  # as fine-tuning callbacks do
        assert not model.features(batch).requires_grad
        before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
        model(batch, model.policy.encode_prompts(batch.images, batch.questions), written(model, batch))
        assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())

    def test_a_backbone_in_training_has_a_graph(self, batch):
        model = small_model(frozen_backbone=False)
        assert model.features(batch).requires_grad
        with torch.no_grad():
            assert not model.features(batch).requires_grad

    def test_precomputed_features_take_the_backbones_place(self, model, batch):
        with torch.no_grad():
            features = model.features(batch)
        expected = run(model, batch)
        stored = replace(batch, features=features.half())
        assert model.features(stored).dtype == torch.float32
        torch.testing.assert_close(run(model, stored).mask_logits, expected.mask_logits, atol=0.05, rtol=0.05)
        assert "frames" not in vars(stored)  # nobody asked for them, so they were never made
        given = replace(batch, features=torch.zeros_like(features))
        assert not torch.allclose(run(model, given).mask_logits, expected.mask_logits, atol=0.05)

    def test_features_of_an_earlier_pass_can_be_reused(self, model, batch):
        prompts = model.policy.encode_prompts(batch.images, batch.questions)
        with torch.no_grad():
            features = model.features(batch)
            fresh = replace(batch)
            again = model(fresh, prompts, written(model, batch), features=features)
        assert "frames" not in vars(fresh)
        assert torch.equal(again.mask_logits, run(model, batch).mask_logits)


class TestBatches:
    def test_a_batch_is_its_examples_one_by_one(self, model, batch):
        together = run(model, batch)
        for row in range(3):
            alone = run(model, part_of_batch(batch, [row]))
            torch.testing.assert_close(together.heatmap_logits[row], alone.heatmap_logits[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(together.mask_logits[row], alone.mask_logits[0], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(together.mask_logits[0], together.mask_logits[1], atol=1e-2)

    def test_the_order_does_not_matter(self, model, batch):
        turned = run(model, part_of_batch(batch, [2, 0, 1]))
        torch.testing.assert_close(turned.mask_logits, run(model, batch).mask_logits[[2, 0, 1]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("aggregator", [LastTokenAggregator, AttentionPoolAggregator])
def test_a_policy_in_half_precision_drives_parts_in_full(batch, aggregator):
    model = small_model(policy=small_policy(dtype="bfloat16"), aggregator=aggregator(hidden_size=32))
    output = run(model, batch)
    assert output.policy.hidden.dtype == torch.bfloat16
    assert output.mask_logits.dtype == torch.float32
    assert output.mask_logits.isfinite().all()
    model.zero_grad()
    model(
        batch, model.policy.encode_prompts(batch.images, batch.questions), written(model, batch)
    ).mask_logits.sum().backward()
    gradient = model.policy.lm.get_input_embeddings().weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


class TestSegment:
    SIZES = ((40, 60), (64, 20), (17, 90))

    def test_images_of_any_size_give_masks_of_their_size(self, model):
        images = photos(*self.SIZES)
        batch, output = model.generate_and_segment(images, ["a", "the b", "the c of d"], max_new_tokens=4)
        assert batch.valid_sizes.tolist() == [[21, 32], [32, 10], [6, 32]]
        for row, size in enumerate(self.SIZES):
            height, width = batch.valid_sizes[row].tolist()
            restored = restore(output.mask_logits[row], (height, width), size, FRAME)
            assert restored.shape == (1, *size)
            assert restored.isfinite().all()
        assert not output.mask_logits.requires_grad

    def test_it_generates_a_thought_and_segments_from_it(self, model):
        images, questions = photos(*self.SIZES), ["a", "the b", "the c of d"]
        policy = model.policy
        batch, output = model.generate_and_segment(images, questions, max_new_tokens=6)
        prompts = policy.encode_prompts(images, questions)
        completions = policy.generate(prompts, max_new_tokens=6)
        assert torch.equal(output.completions.ids, completions.ids)
        assert torch.equal(output.mask_logits, run(model, batch, completions).mask_logits)

    def test_with_the_token_the_mask_is_of_the_image(self):
        """A head that asks for the token on every step."""
        model = small_model()
        asked = nn.functional.one_hot(torch.tensor(model.policy.concentration_id), 1408) * 1000.0
        model.policy.lm.lm_head.register_forward_hook(lambda module, args, output: output + asked)
        images = photos(*self.SIZES)
        _, output = model.generate_and_segment(images, ["a", "b", "c"], max_new_tokens=3)
        assert output.present.all()
        assert [text.count("<REF_POS>") for text in output.completions.texts] == [3, 3, 3]
        assert (output.mask_logits > NO_PRIOR_LOGIT).any()
        alone = model.generate_and_segment(images[1:2], ["b"], max_new_tokens=3)[1]
        torch.testing.assert_close(alone.mask_logits[0], output.mask_logits[1], atol=1e-4, rtol=1e-4)

    def test_it_runs_in_eval_mode_and_gives_the_mode_back(self):
        model = small_model(frozen_backbone=False)
        expected = model.generate_and_segment(photos((40, 60)), ["a"], max_new_tokens=2)[1]
        model.train()
        before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
        output = model.generate_and_segment(photos((40, 60)), ["a"], max_new_tokens=2)[1]
        assert torch.equal(output.mask_logits, expected.mask_logits)
        assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
        assert model.training
        assert model.backbone.training

    def test_temperature_samples(self, model):
        texts = {
            model.generate_and_segment(photos((40, 60)), ["a"], max_new_tokens=6, temperature=9.0)[1].completions.texts[
                0
            ]
            for _ in range(3)
        }
        assert len(texts) == 3


def test_a_batch_for_inference_has_frames_and_no_ground_truth():
    images = photos((40, 60), (64, 20))
    batch = batch_from_images(images, ["a", "b"], FRAME)
    assert len(batch) == 2
    assert batch.frames.shape == (2, 3, FRAME, FRAME)
    assert batch.frames.dtype == torch.uint8
    assert [tuple(mask.shape) for mask in batch.original_masks] == [(40, 60), (64, 20)]
    assert not batch.masks.any()
    assert batch.reasonings == [None, None]


def test_the_backbone_sees_frames_as_the_collator_makes_them(batch):
    again = batch_from_images(batch.images, batch.questions, FRAME)
    assert torch.equal(again.frames, batch.frames)
    assert torch.equal(again.valid_sizes, batch.valid_sizes)


def test_the_backbone_of_another_frame_size_is_refused_by_itself(batch):
    backbone = TimmBackbone(model_name="test_resnet", image_size=64, out_index=1, frozen=True)
    model = small_model(backbone=backbone)
    with pytest.raises(ValueError, match=r"frames of \(B, 3, 64, 64\)"):
        model.features(batch)
