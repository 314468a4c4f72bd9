import pytest
import torch

from coprs_lightning.backbones import CachedBackbone
from coprs_lightning.spec import build
from tests.parts import CHANNELS, FRAME, small_batch, small_model


def cached(**options):
    return CachedBackbone(**{"out_channels": CHANNELS, "stride": 4, "image_size": FRAME, **options})


def test_declares_sam_s_features_and_holds_no_weights():
    backbone = CachedBackbone()
    assert (backbone.out_channels, backbone.stride, backbone.image_size) == (256, 16, 1024)
    assert list(backbone.state_dict()) == []


def test_a_model_runs_from_the_features_of_the_batch():
    model, without = small_model(), small_model(backbone=cached())
    batch = small_batch(2)
    prompts = model.policy.encode_prompts(batch.images, batch.questions)
    completions = model.policy.encode_completions(["it is red", "it is large"])
    with torch.no_grad():
        expected = model(batch, prompts, completions)
        batch.features = model.features(batch)
        result = without(batch, prompts, completions)
    assert torch.equal(result.mask_logits, expected.mask_logits)
    assert torch.equal(result.heatmap_logits, expected.heatmap_logits)


def test_a_batch_without_features_is_refused():
    model = small_model(backbone=cached())
    message = r"batch of 2 frames brings no features\. Compute them once with `coprs data features`"
    with pytest.raises(ValueError, match=message):
        model.features(small_batch(2))


def test_the_portable_spec_rebuilds_it():
    spec = cached().portable_spec()
    assert build(spec).spec == spec


@pytest.mark.parametrize("option", ["out_channels", "stride", "image_size"])
def test_refuses_sizes_below_one(option):
    with pytest.raises(ValueError, match=rf"CachedBackbone\.{option} must be a positive integer, got 0"):
        cached(**{option: 0})
