"""Adapters on a small Qwen2.5-VL: what is trained, what switching them off gives, and what checkpoints hold."""

from __future__ import annotations

import copy
import functools
import sys

import pytest
import torch
from torch import Tensor

from coprs_lightning.component import Component
from coprs_lightning.policies import HFPolicy, LoraOptions
from coprs_lightning.spec import build
from tests.parts import SIZES, small_policy
from tests.policies.passes import IMAGES, QUESTIONS, THOUGHTS, run

UNTIED = {**SIZES, "tie_word_embeddings": False}
OPTIONS = LoraOptions(rank=4, alpha=8.0)


@functools.cache
def built(tied: bool, lora: bool) -> HFPolicy:
    return small_policy(config_overrides=SIZES if tied else UNTIED, lora=OPTIONS if lora else None)


def plain(*, tied: bool = True) -> HFPolicy:
    return copy.deepcopy(built(tied, False))


def adapted(*, tied: bool = True, **options) -> HFPolicy:
    return small_policy(**{"lora": OPTIONS, **options}) if options else copy.deepcopy(built(tied, True))


def disturb(policy: HFPolicy) -> None:
    """Adapters as after a training."""
    with torch.no_grad():
        for parameter in policy.adapter_parameters():
            parameter += torch.randn_like(parameter) * 0.1


def logits(policy: HFPolicy) -> Tensor:
    prompts = policy.encode_prompts(IMAGES, QUESTIONS)
    with torch.no_grad():
        return policy.completion_logits(run(policy, prompts, policy.encode_completions(THOUGHTS)))


def gradients(policy: HFPolicy) -> dict[str, Tensor]:
    """Of the written completions' log-probability."""
    completions = policy.encode_completions(THOUGHTS)
    output = policy(policy.encode_prompts(IMAGES, QUESTIONS), completions)
    policy.zero_grad()
    policy.log_probs(output, completions).log_probs.sum().backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"rank": 0}, r"lora\.rank must be ≥ 1, got 0"),
            ({"alpha": 0.0}, r"lora\.alpha must be > 0, got 0"),
            ({"dropout": 1.0}, r"lora\.dropout must be in \[0, 1\), got 1"),
            ({"target_modules": []}, r"lora\.target_modules is empty"),
        ],
    )
    def test_values_that_make_no_sense_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            LoraOptions(**options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"target_modules": ["q_proj", "qproj"]}, r"lora\.target_modules: 'qproj' matches no .* mean q_proj"),
            ({"target_modules": ["lm_head"]}, r"'lm_head' matches no linear layer of the language model"),
            ({"vision_target_modules": ["q_proj"]}, r"lora\.vision_target_modules: 'q_proj' matches no .* outside"),
            ({"vision_target_modules": ["qkw"]}, r"Did you mean qkv"),
        ],
    )
    def test_names_that_match_no_layer_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            adapted(lora=LoraOptions(**options))

    def test_all_layers_of_the_language_model_are_adapted_by_default(self):
        names = list(adapted().adapters.layers())
        assert all(name.startswith("model.language_model.layers.") for name in names)
        ends = {name.rpartition(".")[2] for name in names}
        assert ends == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
        assert len(names) == 2 * len(ends)

    def test_layers_are_chosen_by_the_ends_of_their_names(self):
        options = LoraOptions(target_modules=["v_proj", "0.mlp.up_proj"], vision_target_modules=["gate_proj"])
        assert list(adapted(lora=options).adapters.layers()) == [
            "model.visual.blocks.0.mlp.gate_proj",
            "model.language_model.layers.0.self_attn.v_proj",
            "model.language_model.layers.0.mlp.up_proj",
            "model.language_model.layers.1.self_attn.v_proj",
        ]

    def test_rank_and_alpha_give_the_update(self):
        policy = adapted(lora=LoraOptions(rank=2, alpha=6.0, target_modules=["q_proj"]))
        disturb(policy)
        base = plain()
        with torch.no_grad():
            base.lm.get_input_embeddings().weight[base.concentration_id] = policy.adapters.rows[0]
            for name, layer in policy.adapters.layers().items():
                down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                assert down.shape[0] == 2
                base.lm.get_submodule(name).weight += 3.0 * up @ down
        torch.testing.assert_close(logits(policy), logits(base), rtol=1e-4, atol=1e-4)

    def test_dropout_is_for_training_only(self):
        policy = adapted(lora=LoraOptions(dropout=0.5))
        disturb(policy)
        assert torch.equal(logits(policy), logits(policy))
        policy.train()
        assert not torch.equal(logits(policy), logits(policy))

    def test_without_peft_the_error_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "peft", None)
        with pytest.raises(ImportError, match=r"pip install 'coprs_lightning\[lora\]'"):
            adapted(lora=OPTIONS)


class TestTraining:
    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_adapters_and_the_row_get_gradients_and_nothing_else_does(self, checkpointing):
        policy = adapted(gradient_checkpointing=checkpointing).train()
        disturb(policy)
        found = gradients(policy)
        expected = {name for name, p in policy.named_parameters() if "lora_" in name or name == "adapters.rows"}
        assert set(found) == expected
        assert len(expected) == 2 * 14 + 1
        assert all(bool(value.abs().sum() > 0) for value in found.values())
        trainable = {id(p) for group in policy.parameter_groups(1e-3, "policy") for p in group["params"]}
        assert trainable == {id(p) for p in policy.adapter_parameters()}

    def test_gradient_checkpointing_changes_no_gradient(self):
        policies = [adapted(gradient_checkpointing=on).train() for on in (False, True)]
        disturb(policies[0])
        policies[1].load_state_dict(policies[0].state_dict())
        first, second = (gradients(policy) for policy in policies)
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("tied", [True, False])
    def test_the_rows_gradient_is_that_of_the_embeddings_row(self, tied):
        policy, base = adapted(tied=tied), plain(tied=tied)
        row = policy.concentration_id
        found = gradients(policy)["adapters.rows"]
        gradients(base)
        lm = base.lm
        matrices = {id(m): m for m in (lm.get_input_embeddings().weight, lm.lm_head.weight)}
        expected = torch.stack([m.grad[row] for m in matrices.values()])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert len(found) == (1 if tied else 2)

    @pytest.mark.parametrize("tied", [True, False])
    def test_the_row_stands_in_the_embeddings_place(self, tied):
        policy, base = adapted(tied=tied), plain(tied=tied)
        with torch.no_grad():
            policy.adapters.rows += torch.randn_like(policy.adapters.rows)
            base.lm.get_input_embeddings().weight[base.concentration_id] = policy.adapters.rows[0]
            base.lm.lm_head.weight[base.concentration_id] = policy.adapters.rows[-1]
        torch.testing.assert_close(logits(policy), logits(base), rtol=1e-4, atol=1e-4)

    def test_a_head_with_a_bias_keeps_it(self):
        policy = adapted()
        before = logits(policy)
        policy.lm.lm_head.bias = torch.nn.Parameter(torch.randn(before.shape[-1]))
        torch.testing.assert_close(logits(policy), before + policy.lm.lm_head.bias)

    def test_steps_on_adapters_teach_the_completions(self):
        policy = adapted().train()
        optimizer = torch.optim.AdamW(policy.adapter_parameters(), lr=1e-2)
        completions = policy.encode_completions(THOUGHTS)
        prompts = policy.encode_prompts(IMAGES, QUESTIONS)
        losses = []
        for _ in range(8):
            loss = -policy.log_probs(policy(prompts, completions), completions).log_probs.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.8 * losses[0]

    def test_sampling_and_generate_use_the_adapters(self):
        policy = adapted()
        prompts = policy.encode_prompts(IMAGES, QUESTIONS)
        before = policy.generate(prompts, max_new_tokens=8)
        disturb(policy)
        after = policy.generate(prompts, max_new_tokens=8)
        assert not torch.equal(after.ids, before.ids)
        sampled = policy.sample(prompts, num_generations=1, max_new_tokens=8, temperature=0.0)
        assert torch.equal(sampled.ids, after.ids)
        with policy.adapters_off():
            assert torch.equal(policy.generate(prompts, max_new_tokens=8).ids, before.ids)

    def test_adapters_of_a_half_precision_model_are_not_rounded(self):
        policy = adapted(dtype="bfloat16")
        assert {p.dtype for p in policy.adapter_parameters()} == {torch.float32}
        assert {p.dtype for p in policy.parameters() if not p.requires_grad} == {torch.bfloat16}
        assert policy.adapters.neutral()
        disturb(policy)
        assert {value.dtype for value in gradients(policy).values()} == {torch.float32}


class TestOff:
    @pytest.mark.parametrize("tied", [True, False])
    def test_the_initial_logits_come_back_to_the_bit(self, tied):
        initial = logits(plain(tied=tied))
        policy = adapted(tied=tied)
        torch.testing.assert_close(logits(policy), initial)
        assert policy.adapters.neutral()
        disturb(policy)
        changed = logits(policy)
        assert (changed - initial).abs().max() > 0.1
        assert not policy.adapters.neutral()
        with policy.adapters_off():
            assert torch.equal(logits(policy), initial)
            with policy.adapters_off():
                pass
            assert torch.equal(logits(policy), initial)
        assert torch.equal(logits(policy), changed)

    @pytest.mark.parametrize("part", ["rows", "lora_B"])
    def test_each_part_alone_is_noticed(self, part):
        policy = adapted()
        with torch.no_grad():
            next(p for name, p in policy.named_parameters() if part in name).view(-1)[0] += 1e-3
        assert not policy.adapters.neutral()

    @pytest.mark.parametrize("frozen", [False, True])
    def test_what_is_trained_stays_so_on_exceptions_too(self, frozen):
        policy = adapted(frozen=frozen)
        policy.freeze_if_asked()
        disturb(policy)
        changed = logits(policy)
        flags = [p.requires_grad for p in policy.parameters()]
        assert any(flags) == (not frozen)

        def fail() -> None:
            with policy.adapters_off():
                raise KeyError("inside")

        with pytest.raises(KeyError, match="inside"):
            fail()
        assert [p.requires_grad for p in policy.parameters()] == flags
        assert torch.equal(logits(policy), changed)

    def test_gradients_of_an_earlier_pass_survive(self):
        policy = adapted(gradient_checkpointing=True).train()
        disturb(policy)
        expected = gradients(policy)
        completions = policy.encode_completions(THOUGHTS)
        policy.zero_grad()
        output = policy(policy.encode_prompts(IMAGES, QUESTIONS), completions)
        loss = policy.log_probs(output, completions).log_probs.sum()
        with policy.adapters_off():
            logits(policy)
        loss.backward()
        for name, parameter in policy.named_parameters():
            if name in expected:
                torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)

    def test_a_policy_without_adapters_says_so(self):
        policy = plain()
        assert policy.adapter_parameters() == []
        with pytest.raises(ValueError, match=r"has no adapters.*Set model\.policy\.init_args\.lora"):
            policy.adapters_off()


class TestCheckpoints:
    def test_spec_and_weights_rebuild_the_policy(self, tmp_path):
        policy = adapted(lora=LoraOptions(rank=3, target_modules=["q_proj", "v_proj"]))
        disturb(policy)
        again = build(policy.spec)
        again.load_state_dict(policy.state_dict())
        assert again.adapters is not None
        assert torch.equal(logits(again.eval()), logits(policy))
        policy.save(tmp_path / "policy.pt")
        assert torch.equal(logits(Component.load(tmp_path / "policy.pt").eval()), logits(policy))

    @pytest.mark.parametrize("tied", [True, False])
    def test_a_checkpoint_without_adapters_becomes_what_is_adapted(self, tied):
        base = plain(tied=tied)
        with torch.no_grad():
            for parameter in base.parameters():
                parameter += torch.randn_like(parameter) * 0.05
        policy = adapted(tied=tied)
        disturb(policy)
        outer = torch.nn.ModuleDict({"policy": policy})
        outer.load_state_dict(torch.nn.ModuleDict({"policy": base}).state_dict())
        assert policy.adapters.neutral()
        torch.testing.assert_close(logits(policy), logits(base))
        with policy.adapters_off():
            assert torch.equal(logits(policy), logits(base))

    @pytest.mark.parametrize("name", ["q_proj.weight", "embed_tokens.weight"])
    def test_missing_weights_are_still_refused(self, name):
        state = {key: value for key, value in plain().state_dict().items() if not key.endswith(name)}
        with pytest.raises(RuntimeError, match=r"Missing key.*" + name.replace("proj.", "proj.base_layer.")):
            adapted().load_state_dict(state)

    def test_a_copy_is_on_its_own(self):
        policy = adapted()
        twin = copy.deepcopy(policy)
        before = logits(policy)
        disturb(policy)
        assert torch.equal(logits(twin), before)
        with policy.adapters_off():
            assert not twin.adapters.disabled


class TestMerging:
    @pytest.mark.parametrize("tied", [True, False])
    def test_a_plain_policy_with_merged_weights_computes_the_same(self, tied):
        trained = adapted(tied=tied)
        disturb(trained)
        other = plain(tied=tied)
        assert (logits(trained) - logits(other)).abs().max() > 0.1
        other.load_state_dict(trained.merged_state_dict())
        assert (logits(other) - logits(trained)).norm() <= 1e-5 * logits(trained).norm()
        assert (other.lm.lm_head.weight is other.lm.get_input_embeddings().weight) == tied

    def test_in_double_precision_nothing_but_rounding_is_left(self):
        trained = adapted().double()
        disturb(trained)
        other = plain().double()
        other.load_state_dict(trained.merged_state_dict())
        completions = trained.encode_completions(THOUGHTS)
        prompts = trained.encode_prompts(IMAGES, QUESTIONS)
        hidden, expected = (run(policy, prompts, completions).hidden for policy in (other, trained))
        torch.testing.assert_close(hidden, expected, atol=1e-10, rtol=1e-10)

    def test_it_leaves_the_adapted_policy_as_it_is(self):
        trained = adapted()
        disturb(trained)
        before = {name: value.clone() for name, value in trained.state_dict().items()}
        expected = logits(trained)
        merged = trained.merged_state_dict()
        assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
        assert torch.equal(logits(trained), expected)
        assert (
            merged["lm.lm_head.weight"].data_ptr() == merged["lm.model.language_model.embed_tokens.weight"].data_ptr()
        )

    def test_names_and_types_are_those_of_a_plain_policy(self):
        half = adapted(dtype="bfloat16", config_overrides=SIZES)
        expected = small_policy(dtype="bfloat16", config_overrides=SIZES).state_dict()
        merged = half.merged_state_dict()
        assert {name: (v.shape, v.dtype) for name, v in merged.items()} == {
            name: (v.shape, v.dtype) for name, v in expected.items()
        }

    def test_vision_layers_and_several_ranks_are_merged(self):
        trained = adapted(lora=LoraOptions(rank=2, alpha=6.0, vision_target_modules=["qkv"]), config_overrides=SIZES)
        disturb(trained)
        other = plain()
        other.load_state_dict(trained.merged_state_dict())
        assert (logits(other) - logits(trained)).norm() <= 1e-5 * logits(trained).norm()
        visual = "lm.model.visual.blocks.0.attn.qkv.weight"
        assert not torch.equal(other.state_dict()[visual], plain().state_dict()[visual])

    def test_without_adapters_it_is_the_state(self):
        policy = plain()
        assert policy.merged_state_dict().keys() == policy.state_dict().keys()
