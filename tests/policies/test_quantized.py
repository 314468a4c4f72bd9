"""Policies whose weights are 4 or 8 bits wide, on the CPU as on a GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from coprs_lightning.checkpoints.parts import merged
from coprs_lightning.policies import HFPolicy, LoraOptions
from coprs_lightning.policies.quantized import check_quantization, quantized_layers
from tests.parts import photos, small_model
from tests.policies.families import save_family
from tests.policies.passes import QUESTIONS, THOUGHTS, run

IMAGES = photos((40, 60), (90, 80), (30, 100))
BITS = ["4bit", "8bit"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("bitsandbytes", reason="the extra `quantization` is not installed")
    return save_family("qwen3_vl", tmp_path_factory.mktemp("quantized"))


def logits(policy: HFPolicy) -> Tensor:
    output = run(policy, policy.encode_prompts(IMAGES, QUESTIONS), policy.encode_completions(THOUGHTS))
    with torch.no_grad():
        return policy.completion_logits(output)


def quantized(folder: Path, bits: Any, **options: Any) -> HFPolicy:
    """In training mode: bitsandbytes' fused 4-bit kernel of some CPUs takes no layers as small as these."""
    given = options or {"lora": LoraOptions(rank=2)}
    return HFPolicy(model=str(folder), quantization=bits, **given).train()


def disturb(policy: HFPolicy) -> None:
    with torch.no_grad():
        for parameter in policy.adapter_parameters():
            parameter += torch.randn_like(parameter) * 0.1


@pytest.mark.parametrize("bits", BITS)
def test_layers_are_quantised_and_the_projection_to_words_is_not(folder: Path, bits: str) -> None:
    policy = quantized(folder, bits)
    names = set(quantized_layers(policy.lm))
    assert "model.language_model.layers.0.self_attn.q_proj.base_layer" in names
    assert "model.visual.blocks.0.attn.qkv" in names
    assert "lm_head" not in names
    mine, plain = policy.merged_state_dict(), HFPolicy(model=str(folder)).state_dict()
    assert mine.keys() == plain.keys()
    name = "lm.model.language_model.layers.0.mlp.up_proj.weight"
    error = (mine[name] - plain[name]).norm() / plain[name].norm()
    assert 0 < error < (0.2 if bits == "4bit" else 0.012)
    assert torch.equal(mine["lm.lm_head.weight"], plain["lm.lm_head.weight"])


def test_a_frozen_policy_writes_and_is_merged_without_adapters(folder: Path) -> None:
    policy = quantized(folder, "8bit", frozen=True)
    assert policy.generate(policy.encode_prompts(IMAGES, QUESTIONS), max_new_tokens=3).ids.shape[0] == 3
    plain = HFPolicy(model=str(folder)).eval()
    plain.load_state_dict(policy.merged_state_dict())
    share = (logits(policy) - logits(plain)).norm() / logits(plain).norm()
    assert 0 < share < 0.1


@pytest.mark.parametrize("bits", BITS)
def test_adapters_are_trained_on_quantised_weights(folder: Path, bits: str) -> None:
    policy = quantized(folder, bits).train()
    completions = policy.encode_completions(THOUGHTS)
    output = policy(policy.encode_prompts(IMAGES, QUESTIONS), completions)
    policy.log_probs(output, completions).log_probs.sum().backward()
    found = {name for name, p in policy.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert "adapters.rows" in found
    assert all("lora_" in name for name in found - {"adapters.rows"})
    assert sum("lora_B" in name for name in found) == 3 * 7


@pytest.mark.parametrize("bits", BITS)
def test_merged_weights_are_plain_and_compute_nearly_the_same(folder: Path, bits: str) -> None:
    policy = quantized(folder, bits)
    disturb(policy)
    plain = HFPolicy(model=str(folder)).eval()
    before = logits(plain)
    plain.load_state_dict(policy.merged_state_dict())
    rounding = 1e-4 if bits == "4bit" else 0.1  # 8 bits quantise the activations too
    assert (logits(plain) - logits(policy)).norm() <= rounding * before.norm()
    assert (logits(plain) - before).norm() > 0.2 * before.norm()


@pytest.mark.parametrize("bits", BITS)
def test_checkpoints_hold_what_is_trained_and_load_strictly(folder: Path, bits: str) -> None:
    policy = quantized(folder, bits)
    disturb(policy)
    expected = logits(policy)
    state = policy.state_dict()
    assert not [name for name in state if "base_layer.weight" in name or "quant" in name or name.endswith("SCB")]
    again = quantized(folder, bits)
    again.load_state_dict(state)
    assert torch.equal(logits(again), expected)


def test_plain_weights_are_not_loaded_into_quantised_ones(folder: Path) -> None:
    plain = HFPolicy(model=str(folder))
    with pytest.raises(ValueError, match=r"qkv\.weight.*quantised and stay as they were read.*quantization out"):
        quantized(folder, "4bit", frozen=True).load_state_dict(plain.state_dict())


def test_trained_or_random_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"quantization: 4bit, but quantised weights cannot be trained\. Set lora"):
        HFPolicy(model="anything", quantization="4bit")
    with pytest.raises(ValueError, match=r"quantization: 8bit .* random_weights is true"):
        HFPolicy(model="small_qwen2_5_vl", random_weights=True, quantization="8bit", frozen=True)


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    with pytest.raises(ImportError, match=r"needs the package .*bitsandbytes.*coprs_lightning\[quantization\]"):
        check_quantization("4bit", random_weights=False, fixed=True)


def test_specs_read_the_source_again_or_stand_for_plain_weights(folder: Path) -> None:
    policy = quantized(folder, "8bit")
    assert policy.portable_spec()["init_args"]["model"] == str(folder)
    assert policy.portable_spec()["init_args"]["quantization"] == "8bit"
    plain = policy.merged_spec()["init_args"]
    assert (plain["lora"], plain["quantization"], plain["random_weights"]) == (None, None, True)
    assert "quantization" not in policy.assets()["config.json"]


def test_an_exported_model_has_plain_weights(folder: Path) -> None:
    policy = quantized(folder, "8bit")
    disturb(policy)
    exported = merged(small_model(policy=policy)).policy
    assert (exported.adapters, exported.quantized) == (None, False)
    mine, theirs = policy.merged_state_dict(), exported.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
