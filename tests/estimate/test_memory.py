"""The formulas against what a small model really holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from coprs_lightning.decoders import SamMaskDecoder
from coprs_lightning.estimate import Load, Sizes, estimate, measure
from coprs_lightning.estimate.memory import (
    DECODER_WIDTHS,
    activation_bytes,
    cache_bytes,
    layer_bytes,
    logits_bytes,
    state_bytes,
)
from coprs_lightning.model import CoprsModel
from coprs_lightning.policies import HFPolicy
from coprs_lightning.structures import Completions
from tests.benchmarks.measure import saved_bytes
from tests.benchmarks.shapes import sizes_of
from tests.parts import photos, small_model

LOAD = Load(prompts=2, group=4, prompt_tokens=100, completion_tokens=20)


def completions_of(count: int, length: int) -> Completions:
    ids = torch.randint(30, 300, (count, length))
    return Completions(ids, torch.ones_like(ids, dtype=torch.bool), [""] * count, torch.zeros(count, dtype=torch.bool))


@pytest.fixture(scope="module")
def model() -> CoprsModel:
    return small_model()


@pytest.fixture(scope="module")
def sizes(model: CoprsModel) -> Sizes:
    return measure(model)


def test_parameters_are_counted_once_and_by_part(model: CoprsModel, sizes: Sizes) -> None:
    assert sum(part.total for part in sizes.parts) == sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(part.trainable for part in sizes.parts) == trained


def test_weights_gradients_and_moments_are_those_of_a_step(model: CoprsModel, sizes: Sizes) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    def held(tensors: Any) -> int:
        return sum(t.numel() * t.element_size() for t in tensors)

    moments = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor) and v.ndim]
    expected = state_bytes(sizes, LOAD)
    assert held(model.parameters()) == expected["weights"]
    assert held(p.grad for p in trained) == expected["gradients"]
    assert held(moments) == pytest.approx(expected["optimizer"], rel=0.02)


@pytest.mark.parametrize(("width", "layers", "length"), [(128, 3, 64), (256, 3, 192)])
def test_activations_are_about_what_the_backward_pass_keeps(width: int, layers: int, length: int) -> None:
    policy = HFPolicy(
        model="small_qwen2_5_vl",
        random_weights=True,
        config_overrides=sizes_of(width, layers, 4, 2),
        train_vision=False,
    ).train()
    prompts = policy.encode_prompts(photos((60, 60)), ["the red one"])
    completions = completions_of(4, length)
    kept = saved_bytes(lambda: policy(prompts, completions))
    model = small_model()
    model.policy = policy
    language = measure(model).language
    assert language is not None
    load = Load(prompts=1, group=4, prompt_tokens=prompts.input_ids.shape[1], completion_tokens=length)
    tokens, longest = load.pass_tokens()
    assert (tokens, longest) == (load.prompt_tokens + 4 * length,) * 2
    expected = activation_bytes(language, tokens, longest, checkpointing=False)
    assert expected / 1.25 < kept < expected * 1.25


@pytest.mark.parametrize("grid", [16, 32])
def test_the_decoder_keeps_about_what_its_constant_says(grid: int) -> None:
    decoder = SamMaskDecoder(in_channels=64, hidden_size=64, mlp_dim=128).train()
    heatmap = torch.randn(1, 2, 4 * grid, 4 * grid, requires_grad=True)
    features, valid = torch.randn(1, 64, grid, grid), torch.tensor([[16 * grid, 16 * grid]])
    kept = saved_bytes(lambda: decoder(features, heatmap, valid, 16 * grid))
    assert kept / (2 * grid * grid * 64 * 4) == pytest.approx(DECODER_WIDTHS, rel=0.5)


def test_a_rollouts_cache_holds_the_prompt_once(sizes: Sizes) -> None:
    assert sizes.language is not None
    one = 2 * sizes.language.layers * sizes.language.kv_width * 4
    assert cache_bytes(sizes.language, LOAD) == one * 2 * (100 + 4 * 20)


def test_passes_share_prompts_only_where_asked() -> None:
    assert LOAD.pass_tokens() == (2 * 180, 180)
    assert replace(LOAD, shared_prefix=False).pass_tokens() == (8 * 120, 120)
    assert replace(LOAD, micro_batch=2).pass_tokens() == (140, 140)
    assert replace(LOAD, micro_batch=4).pass_tokens() == (180, 180)


def test_what_saves_memory_saves_it(sizes: Sizes) -> None:
    assert sizes.language is not None

    def total(load: Load, of: Sizes = sizes, devices: int = 1, strategy: str = "one device") -> int:
        return sum(estimate(of, load, devices)[strategy].values())

    assert total(replace(LOAD, micro_batch=2)) < total(LOAD) < total(replace(LOAD, shared_prefix=False))
    assert total(LOAD, replace(sizes, checkpointing=True)) < total(LOAD)
    copied = replace(LOAD, reference_copy=True)
    assert total(copied) - total(LOAD) == sizes.policy.bytes
    assert total(LOAD, devices=4, strategy="full shard × 4") < total(LOAD)
    assert total(LOAD, devices=4, strategy="DDP × 4") - total(LOAD) == state_bytes(sizes, LOAD)["gradients"]
    assert logits_bytes(sizes.language, replace(LOAD, logits_chunk=16)) < logits_bytes(sizes.language, LOAD)
    assert layer_bytes(sizes.language, 2) == 2 * layer_bytes(sizes.language, 1)


def test_full_shard_divides_the_policys_state_alone(sizes: Sizes) -> None:
    whole, shared = state_bytes(sizes, LOAD), estimate(sizes, LOAD, 4)["full shard × 4"]
    others = sum(part.bytes for part in sizes.parts if part.name != "policy")
    assert shared["weights"] == pytest.approx(others + sizes.policy.bytes / 4, abs=8)
    assert shared["optimizer"] < whole["optimizer"]


def test_quantised_weights_count_less(sizes: Sizes) -> None:
    policy = sizes.policy
    frozen = replace(policy, trainable=0, trainable_bytes=0)
    parts = [frozen if part is policy else part for part in sizes.parts]
    half = state_bytes(replace(sizes, parts=parts), replace(LOAD, frozen_weight_bytes=0.5))["weights"]
    assert half == sum(part.bytes for part in sizes.parts) - policy.bytes + policy.total // 2


def test_a_policy_that_is_no_transformers_model_is_not_guessed_at(sizes: Sizes) -> None:
    assert "activations" not in estimate(replace(sizes, language=None), LOAD, 1)["one device"]
