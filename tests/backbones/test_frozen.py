"""A frozen backbone costs no memory in training: it is never in the graph of gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from coprs_lightning.backbones import ImageBackbone, SamBackbone, SamVisionOptions, TimmBackbone
from coprs_lightning.model import CoprsModel
from tests.parts import CHANNELS, FRAME, small_batch, small_model


def timm_backbone(frozen: bool) -> ImageBackbone:
    return TimmBackbone(model_name="test_resnet", image_size=FRAME, out_index=1, frozen=frozen)


def sam_backbone(frozen: bool) -> ImageBackbone:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4, "mlp_dim": 32}
    config = SamVisionOptions(output_channels=CHANNELS, window_size=3, global_attn_indexes=(1,), **sizes)
    return SamBackbone(config=config, image_size=FRAME, frozen=frozen)


@contextmanager
def saved_for_backward() -> Iterator[list[Tensor]]:
    """Every tensor that autograd keeps meanwhile."""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def build(make, frozen: bool) -> CoprsModel:
    model = small_model(backbone=make(frozen))
    model.train()  # as Lightning does before an epoch
    return model


BOTH = pytest.mark.parametrize("make", [timm_backbone, sam_backbone])


@BOTH
def test_features_of_a_frozen_backbone_have_no_graph(make):
    model = build(make, frozen=True)
    with saved_for_backward() as saved:
        features = model.features(small_batch())
    assert features.grad_fn is None
    assert not features.requires_grad
    assert saved == []
    assert not any(module.training for module in model.backbone.modules())


@BOTH
def test_a_trained_backbone_is_in_the_graph(make):
    model = build(make, frozen=False)
    with saved_for_backward() as saved:
        features = model.features(small_batch())
    assert features.grad_fn is not None
    assert saved


@BOTH
def test_a_frozen_backbone_s_inner_activations_are_not_kept_even_if_its_weights_ask_for_gradients(make):
    model = build(make, frozen=True)
    model.backbone.requires_grad_(True)  # as a strategy or a callback might
    with saved_for_backward() as saved:
        features = model.features(small_batch())
    assert not features.requires_grad
    assert saved == []


@BOTH
def test_a_step_trains_everything_but_a_frozen_backbone(make):
    model = build(make, frozen=True)
    batch = small_batch()
    prompts = model.policy.encode_prompts(batch.images, batch.questions)
    completions = model.policy.encode_completions(["it is red"] * 3)
    model(batch, prompts, completions).mask_logits.square().sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    for slot in ("heatmap_head", "decoder"):
        assert all(p.grad is not None for p in model.components()[slot].parameters()), slot
    assert model.policy.lm.get_input_embeddings().weight.grad.abs().sum() > 0


@BOTH
def test_a_frozen_backbone_s_weights_and_statistics_stay(make):
    model = build(make, frozen=True)
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    model.features(small_batch())
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())


def test_features_of_the_batch_are_taken_as_they_are():
    model = build(timm_backbone, frozen=False)
    batch = small_batch()
    given = torch.randn(3, CHANNELS, 8, 8, dtype=torch.float16)
    features = model.features(replace(batch, features=given))
    assert torch.equal(features, given.float())
    assert not features.requires_grad
