"""The formulas against what a small model really holds."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from coprs_lightning.decoders import SamMaskDecoder
from coprs_lightning.estimate import FORMULAS, Load, Sizes, estimate, measure, pass_bytes, with_precision
from coprs_lightning.estimate.memory import (
    CACHE,
    DECODER_WIDTHS,
    EVALUATED,
    activation_bytes,
    cache_bytes,
    feature_bytes,
    gathered_bytes,
    layer_bytes,
    logits_bytes,
    segmentation_bytes,
    state_bytes,
    visiting_bytes,
    working_bytes,
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


def kept_and_expected(
    shape: tuple[int, int, int], *, dtype: str = "float32", autocast: bool = False, checkpointing: bool = False
) -> tuple[int, Sizes, Load]:
    """Bytes that a pass of a policy keeps, and what the formulas need to tell them beforehand."""
    width, layers, length = shape
    policy = HFPolicy(
        model="small_qwen2_5_vl",
        random_weights=True,
        config_overrides=sizes_of(width, layers, 4, 2),
        train_vision=False,
        dtype=dtype,  # type: ignore[arg-type]
        gradient_checkpointing=checkpointing,
    ).train()
    prompts = policy.encode_prompts(photos((60, 60)), ["the red one"])
    completions = completions_of(4, length)
    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
        kept = saved_bytes(lambda: policy(prompts, completions))
    model = small_model()
    model.policy = policy
    load = Load(prompts=1, group=4, prompt_tokens=prompts.input_ids.shape[1], completion_tokens=length)
    return kept, with_precision(measure(model), "bf16-mixed" if autocast else "32-true"), load


@pytest.mark.parametrize("shape", [(128, 3, 64), (256, 3, 192)])
def test_activations_are_about_what_the_backward_pass_keeps(shape: tuple[int, int, int]) -> None:
    kept, sizes, load = kept_and_expected(shape)
    tokens, longest = load.pass_tokens()
    assert (tokens, longest) == (load.prompt_tokens + 4 * shape[-1],) * 2
    assert sizes.language is not None
    expected = activation_bytes(sizes.language, tokens, longest, checkpointing=False)
    assert pass_bytes(sizes, load, checkpointing=False) == expected
    assert expected / 1.25 < kept < expected * 1.25


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(128, 3, 64), (256, 3, 192)])
def test_mixed_precision_keeps_casts_of_weights_too(shape: tuple[int, int, int], dtype: str) -> None:
    kept, sizes, load = kept_and_expected(shape, dtype=dtype, autocast=True)
    policy = sizes.policy
    assert policy.bytes == {"float32": 4, "bfloat16": 2}[dtype] * policy.total
    # the other parts' weights are float32 and take no part here
    others = sum(2 * part.trainable for part in sizes.parts if part is not policy)
    casts = sizes.cast_bytes - others
    assert casts == (2 * policy.total if dtype == "float32" else 0)
    expected = pass_bytes(sizes, load, checkpointing=False) + casts
    assert expected / 1.3 < kept < expected * 1.3


@pytest.mark.parametrize("shape", [(128, 3, 64), (256, 3, 192)])
def test_checkpointing_keeps_inputs_of_layers_until_the_backward_pass(shape: tuple[int, int, int]) -> None:
    kept, sizes, load = kept_and_expected(shape, checkpointing=True)
    assert sizes.checkpointing
    assert sizes.language is not None
    recomputed_later = layer_bytes(sizes.language, load.pass_tokens()[0])
    expected = pass_bytes(sizes, load, checkpointing=True) - recomputed_later
    assert expected / 1.4 < kept < expected * 1.4


def test_true_half_precision_converts_every_weight(sizes: Sizes) -> None:
    half = with_precision(sizes, "bf16-true")
    assert half.policy.bytes == 2 * sizes.policy.total
    assert half.language is not None
    assert half.language.value_bytes == half.segmentation_bytes == 2
    assert half.cast_bytes == 0
    assert with_precision(sizes, "32-true") == sizes


def test_every_item_has_its_formula(sizes: Sizes) -> None:
    mixed = with_precision(sizes, "16-mixed")
    loads = (replace(LOAD, samples=True, **{name: True}) for name in ("reference_copy", "reference_offloaded"))
    items = {name for load in loads for found in estimate(mixed, load, 2).values() for name in found}
    assert items == set(FORMULAS)


def test_an_offloaded_reference_counts_where_nothing_later_needs_its_place(sizes: Sizes) -> None:
    load = replace(LOAD, reference_offloaded=True)
    adapters = replace(sizes.policy, trainable=10, trainable_bytes=40)
    others = sum(part.trainable_bytes for part in sizes.parts if part is not sizes.policy)
    lora = replace(sizes, parts=[adapters if part is sizes.policy else part for part in sizes.parts])
    # a rollout in one pass: its graph waits while the reference scores it
    assert visiting_bytes(lora, load, working_bytes(lora, load)) == sizes.policy.bytes - others - 40
    assert visiting_bytes(sizes, load, working_bytes(sizes, load)) == 0
    pieces = replace(load, micro_batch=1)
    later = working_bytes(lora, pieces)
    kept = sum(later.values()) - feature_bytes(lora, pieces)
    assert visiting_bytes(lora, pieces, later) == max(0, sizes.policy.bytes - others - 40 - kept)
    copied = replace(LOAD, reference_copy=True)
    assert sum(estimate(sizes, load, 1)["one device"].values()) < sum(estimate(sizes, copied, 1)["one device"].values())


def test_a_rollouts_cache_counts_where_it_is_more_than_what_comes_later(sizes: Sizes) -> None:
    load = replace(LOAD, samples=True, micro_batch=1, group=1000)
    assert sizes.language is not None
    found = estimate(sizes, load, 1)["one device"]
    later = pass_bytes(sizes, load, False) + logits_bytes(sizes.language, load) + segmentation_bytes(sizes, load)
    assert found[CACHE] == cache_bytes(sizes.language, load) - later > 0
    assert estimate(sizes, replace(load, group=1), 1)["one device"][CACHE] == 0


def test_features_are_counted_once_a_prompt(sizes: Sizes) -> None:
    assert feature_bytes(sizes, LOAD) == 2 * sizes.channels * sizes.cells * 4
    assert feature_bytes(sizes, replace(LOAD, micro_batch=1)) == feature_bytes(sizes, LOAD)


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
    quantised = replace(LOAD, frozen_weight_bytes=0.5)
    frozen = replace(sizes.policy, trainable=0, trainable_bytes=0)
    parts = [frozen if part is sizes.policy else part for part in sizes.parts]
    less = estimate(replace(sizes, parts=parts), quantised, 4)["full shard × 4"]["weights"]
    assert less == pytest.approx(others + sizes.policy.total / 2 / 4, abs=8)


def test_full_shard_gathers_what_a_pass_needs_and_all_to_decode(sizes: Sizes) -> None:
    policy = sizes.policy
    assert 0 < sizes.largest_layer < sizes.outside_layers < policy.total
    groups = sizes.outside_layers + 2 * sizes.largest_layer
    # weights and gradients in their type, and the largest group's gradients once more where they are added
    assert gathered_bytes(sizes) == 2 * 4 * groups + 4 * sizes.outside_layers
    half = with_precision(sizes, "bf16-mixed")
    assert gathered_bytes(half) == 2 * 2 * groups + 4 * sizes.outside_layers
    found = estimate(half, LOAD, 4)
    # gathered in half precision, so that autocast has nothing of the policy to copy
    assert found["full shard × 4"].get("casts of weights", 0) == half.cast_bytes - half.policy_cast_bytes
    assert found["DDP × 4"]["casts of weights"] == half.cast_bytes > half.policy_cast_bytes > 0
    frozen = replace(policy, trainable=0, trainable_bytes=0)
    parts = [frozen if part is policy else part for part in sizes.parts]
    assert gathered_bytes(replace(sizes, parts=parts)) == 4 * groups
    short = replace(LOAD, prompts=1, group=1, prompt_tokens=1, completion_tokens=1)
    thin = replace(sizes, parts=parts, cells=1, largest_layer=0, outside_layers=0)  # a pass holds next to nothing
    evaluated = estimate(thin, short, 4)["full shard × 4"][EVALUATED]
    assert 0.5 * policy.bytes < evaluated <= policy.bytes


def test_quantised_weights_count_less(sizes: Sizes) -> None:
    policy = sizes.policy
    frozen = replace(policy, trainable=0, trainable_bytes=0)
    parts = [frozen if part is policy else part for part in sizes.parts]
    half = state_bytes(replace(sizes, parts=parts), replace(LOAD, frozen_weight_bytes=0.5))["weights"]
    assert half == sum(part.bytes for part in sizes.parts) - policy.bytes + policy.total // 2


def test_a_policy_that_is_no_transformers_model_is_not_guessed_at(sizes: Sizes) -> None:
    assert "activations" not in estimate(replace(sizes, language=None), LOAD, 1)["one device"]
