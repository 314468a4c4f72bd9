"""Loading: checkpoints, configurations, the concentration token, other architectures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from coprs_lightning.component import Component
from coprs_lightning.policies import HFPolicy
from coprs_lightning.policies.loading import SHIPPED, UnusedWeightsWarning
from coprs_lightning.policies.tokens import register_concentration_token
from tests.parts import SIZES, photos, small_policy
from tests.policies.passes import IMAGES, QUESTIONS, THOUGHTS, run, save_checkpoint


class TestPixelLimits:
    def test_pixel_limits_reach_the_processor(self):
        image = photos((200, 200))

        def tokens(**limits: Any) -> int:
            prompts = small_policy(**limits).encode_prompts(image, ["a cat"])
            return int(prompts.vision["image_grid_thw"].prod()) // 4

        assert tokens(min_pixels=None, max_pixels=None) == 16  # 112 × 112 as shipped
        assert tokens(min_pixels=None, max_pixels=56 * 56) == 4
        assert tokens(min_pixels=28 * 28, max_pixels=28 * 28) == 1
        assert tokens(min_pixels=None, max_pixels=196 * 196) == 49

    def test_the_most_pixels_hold_for_images_below_the_processors_least_too(self):
        limited = small_policy(min_pixels=None, max_pixels=28 * 28)
        assert limited.encode_prompts(photos((20, 20)), ["a cat"]).vision["image_grid_thw"].tolist() == [[1, 2, 2]]

    def test_pixel_limits_that_exclude_each_other_are_refused(self):
        with pytest.raises(ValueError, match="min_pixels 2000 is more than max_pixels 1000"):
            small_policy(min_pixels=2000, max_pixels=1000)


class TestCheckpoints:
    def test_a_saved_checkpoint_loads_to_identical_logits(self, tmp_path, policy, prompts, written):
        folder = save_checkpoint(tmp_path, policy.lm, policy.processor)
        loaded = HFPolicy(model=str(folder)).eval()
        assert loaded.concentration_id == policy.concentration_id
        assert loaded.hidden_size == policy.hidden_size == 32
        again = loaded.encode_prompts(IMAGES, QUESTIONS)
        assert torch.equal(again.input_ids, prompts.input_ids)
        assert torch.equal(again.vision["pixel_values"], prompts.vision["pixel_values"])
        expected = policy.completion_logits(run(policy, prompts, written))
        assert torch.equal(loaded.completion_logits(run(loaded, again, written)), expected)

    def test_a_checkpoints_own_generation_habits_are_ignored(self, tmp_path, policy, prompts):
        """Public ones bring a repetition penalty and narrow sampling."""
        folder = save_checkpoint(tmp_path, policy.lm, policy.processor)
        habits = {
            "do_sample": True,
            "repetition_penalty": 3.0,
            "top_k": 1,
            "no_repeat_ngram_size": 1,
            "temperature": 0.1,
        }
        (folder / "generation_config.json").write_text(json.dumps(habits))
        loaded = HFPolicy(model=str(folder)).eval()
        greedy = policy.generate(prompts, max_new_tokens=10)
        assert torch.equal(loaded.generate(prompts, max_new_tokens=10).ids, greedy.ids)
        torch.manual_seed(0)
        expected = policy.generate(prompts, max_new_tokens=10, temperature=2.0)
        torch.manual_seed(0)
        assert torch.equal(loaded.generate(prompts, max_new_tokens=10, temperature=2.0).ids, expected.ids)

    def test_a_saved_part_rebuilds_itself(self, tmp_path, policy, prompts, written):
        policy.save(tmp_path / "policy.pt")
        loaded = Component.load(tmp_path / "policy.pt").eval()
        assert loaded.prompt == policy.prompt
        assert torch.equal(run(loaded, prompts, written).hidden, run(policy, prompts, written).hidden)

    def test_a_shipped_model_has_no_weights_to_load(self):
        with pytest.raises(ValueError, match=r"'small_qwen2_5_vl' is shipped .* without weights.*random_weights: true"):
            HFPolicy(model="small_qwen2_5_vl")

    @pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.bfloat16), ("float32", torch.float32)])
    def test_auto_takes_the_checkpoints_type(self, tmp_path, dtype, expected):
        half = small_policy(dtype="bfloat16")
        folder = save_checkpoint(tmp_path, half.lm, half.processor)
        assert {p.dtype for p in HFPolicy(model=str(folder), dtype=dtype).parameters()} == {expected}
        assert {p.dtype for p in small_policy(dtype="auto").parameters()} == {torch.float32}

    def test_another_architecture_is_driven_by_the_same_class(self, tmp_path):
        """LLaVA: other image token, other processor, fixed image size, embeddings without spare rows."""
        from transformers import (
            AutoTokenizer,
            CLIPImageProcessor,
            CLIPVisionConfig,
            LlavaConfig,
            LlavaProcessor,
            Qwen2Config,
        )  # fmt: skip

        tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "small_qwen2_5_vl")
        tokenizer.add_tokens(["<image>"], special_tokens=True)
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        LlavaConfig(
            vision_config=CLIPVisionConfig(image_size=28, patch_size=14, projection_dim=16, **sizes),
            text_config=Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=1, **sizes),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        ).save_pretrained(tmp_path)
        template = (
            "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
            "{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}ASSISTANT:"
        )
        images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
        LlavaProcessor(
            images, tokenizer, patch_size=14, vision_feature_select_strategy="default", chat_template=template,
            num_additional_image_tokens=1,
        ).save_pretrained(tmp_path)  # fmt: skip

        llava = HFPolicy(model=str(tmp_path), random_weights=True, train_vision=False).eval()
        assert llava.lm.get_input_embeddings().num_embeddings == llava.concentration_id + 1
        assert not any(p.requires_grad for p in llava.lm.model.vision_tower.parameters())
        prompts = llava.encode_prompts(IMAGES[:2], ["a cat", "the <image> dog"])
        assert llava.prompt.system in llava.tokenizer.decode(prompts.input_ids[0])
        output = run(llava, prompts, llava.encode_completions(THOUGHTS[:2]))
        assert output.image_mask.sum(1).tolist() == [4, 4]
        assert output.token_mask.sum(1).tolist() == [1, 1]
        sampled = llava.generate(prompts, max_new_tokens=200, temperature=1000.0)
        assert llava.lm.config.image_token_id not in sampled.ids
        with pytest.raises(ValueError, match="max_pixels 3000 would change nothing: CLIPImageProcessor resizes"):
            HFPolicy(model=str(tmp_path), random_weights=True, max_pixels=3000)


class TestConcentrationToken:
    def test_it_has_the_row_that_its_id_addresses(self, policy):
        tokenizer = policy.tokenizer
        assert policy.concentration_id == tokenizer.convert_tokens_to_ids("<REF_POS>")
        assert tokenizer("a <REF_POS> b")["input_ids"].count(policy.concentration_id) == 1
        assert (
            "<REF_POS>" in tokenizer.all_special_tokens
            or tokenizer.added_tokens_decoder[policy.concentration_id].special
        )

    def test_spare_rows_are_used_and_the_padded_vocabulary_stays(self, policy):
        """Growing a padded embedding by one adds a row that nothing addresses."""
        embedding = policy.lm.get_input_embeddings()
        assert len(policy.tokenizer) <= policy.concentration_id + 1 < embedding.num_embeddings == 1408
        assert policy.lm.config.get_text_config().vocab_size == 1408
        assert policy.lm.lm_head.weight is embedding.weight

    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("missing", [0, 2])
    def test_without_spare_rows_the_embedding_grows_as_far_as_needed(self, tied, missing):
        concentration_id = len(small_policy().tokenizer) - 1
        sizes = {**SIZES["text_config"], "vocab_size": concentration_id - missing}
        tight = small_policy(config_overrides={**SIZES, "text_config": sizes, "tie_word_embeddings": tied})
        embedding = tight.lm.get_input_embeddings()
        assert tight.concentration_id == concentration_id
        assert embedding.num_embeddings == concentration_id + 1
        assert (tight.lm.lm_head.weight is embedding.weight) == tied
        output = run(tight, tight.encode_prompts(IMAGES[:1], QUESTIONS[:1]), tight.encode_completions(THOUGHTS[:1]))
        assert tight.completion_logits(output).shape[-1] == concentration_id + 1

    @pytest.mark.parametrize("spare_rows", [True, False])
    def test_registering_again_changes_nothing(self, tmp_path, spare_rows):
        sizes = {**SIZES, "text_config": {**SIZES["text_config"], "vocab_size": 1408 if spare_rows else 1374}}
        first = small_policy(config_overrides=sizes)
        loaded = HFPolicy(model=str(save_checkpoint(tmp_path, first.lm, first.processor)))
        assert loaded.concentration_id == first.concentration_id
        assert len(loaded.tokenizer) == len(first.tokenizer)
        assert torch.equal(loaded.lm.get_input_embeddings().weight, first.lm.get_input_embeddings().weight)
        assert loaded.lm.lm_head.weight is loaded.lm.get_input_embeddings().weight
        assert register_concentration_token(loaded.lm, loaded.tokenizer) == first.concentration_id
        assert loaded.lm.get_input_embeddings().num_embeddings == first.lm.get_input_embeddings().num_embeddings

    def test_that_row_feeds_the_token_and_the_spare_one_after_it_nothing(self, brief, written):
        prompts = brief.encode_prompts(IMAGES, QUESTIONS)
        before = run(brief, prompts, written)
        changed = small_policy(prompt=brief.prompt)
        embedding = changed.lm.get_input_embeddings()
        with torch.no_grad():
            embedding.weight[changed.concentration_id + 1 :] += 1
            assert torch.equal(run(changed, prompts, written).hidden, before.hidden)
            embedding.weight[changed.concentration_id] += torch.randn(32)
        difference = (run(changed, prompts, written).hidden - before.hidden).abs().amax(2)
        assert (difference[before.token_mask] > 0.01).all()
        earlier = before.token_mask.long().cumsum(1) == 0
        assert (difference[earlier & before.attention_mask] == 0).all()


class TestConfigOverrides:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"hidden": 64}, r"config_overrides\.hidden: the configuration has no such value"),
            (
                {"text_config": {"hiden_size": 64}},
                r"config_overrides\.text_config\.hiden_size: .*Did you mean hidden_size",
            ),
            ({"vision_config": {"dept": 1}}, r"config_overrides\.vision_config\.dept: .*Did you mean depth"),
            ({"to_dict": 1}, r"config_overrides\.to_dict: the configuration has no such value"),
            ({"text_config": {"rope_parameters": {"theta": 1.0}}}, r"text_config\.rope_parameters\.theta: "),
        ],
    )
    def test_an_unknown_name_is_refused(self, overrides, message):
        with pytest.raises(ValueError, match=message):
            small_policy(config_overrides=overrides)

    def test_values_are_set_and_the_rest_stays(self):
        policy = small_policy()
        config = policy.lm.config
        assert (config.text_config.hidden_size, config.vision_config.depth) == (32, 1)
        assert config.text_config.rope_parameters["mrope_section"] == [2, 3, 3]
        assert config.text_config.rope_parameters["rope_theta"] == 10000.0
        assert config.text_config.vocab_size == 1408
        assert len(policy.lm.model.language_model.layers) == 2

    def test_a_value_that_the_configuration_would_take_back(self):
        """Qwen's configuration ties the embeddings again where its text part says so."""
        policy = small_policy(config_overrides={**SIZES, "tie_word_embeddings": False})
        assert policy.lm.lm_head.weight is not policy.lm.get_input_embeddings().weight

    def test_more_layers_than_the_configuration_had(self):
        sizes = {**SIZES, "text_config": {**SIZES["text_config"], "num_hidden_layers": 5}}
        assert len(small_policy(config_overrides=sizes).lm.model.language_model.layers) == 5


class TestStrictLoading:
    @staticmethod
    def saved(folder: Path) -> dict[str, torch.Tensor]:
        policy = small_policy()
        policy.lm.save_pretrained(folder)
        policy.processor.save_pretrained(folder)
        weights: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
        return weights

    def test_a_missing_weight_is_an_error(self, tmp_path: Path):
        weights = self.saved(tmp_path)
        del weights[next(name for name in weights if name.endswith("layers.1.self_attn.q_proj.weight"))]
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(
            ValueError, match=r"lacks 1 weights .*layers\.1\.self_attn\.q_proj\.weight.* would stay random"
        ):
            HFPolicy(model=str(tmp_path))

    def test_a_weight_without_a_place_is_told(self, tmp_path: Path):
        weights = self.saved(tmp_path)
        save_file({**weights, "model.extra": torch.ones(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.warns(UnusedWeightsWarning, match="1 weights that the model has no place for .*extra"):
            HFPolicy(model=str(tmp_path))
