"""Each known cause brought about for real, and named first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from callbacks.smoke_causes import CAUSES, Situation, findings
from callbacks.smoke_signs import Signs
from callbacks.smoke_weights import look_at
from coprs_lightning.backbones import TimmBackbone
from coprs_lightning.backbones.cached import CachedBackbone
from coprs_lightning.decoders import SamMaskDecoder
from coprs_lightning.heatmap_heads import FiLMHead
from coprs_lightning.objectives import GRPOObjective
from coprs_lightning.rl.rollouts import TransformersRollout
from coprs_lightning.structures import SegmentationBatch, SegmentationOutput
from datamodules.collate import FrameCollator
from tests.callbacks.smoking import batches, module, said, validated
from tests.callbacks.tiny import TinySegmenter, loader
from tests.parts import CHANNELS, FRAME, rectangle, small_policy


def cause(messages: list[str]) -> str:
    """The one that is named."""
    (message,) = messages
    return message.split("Cause that fits: ")[1].split(".")[0]


def zeroed(part: nn.Module) -> None:
    for values in part.parameters():
        nn.init.zeros_(values)


def sam_decoder() -> SamMaskDecoder:
    torch.manual_seed(3)
    return SamMaskDecoder(
        in_channels=CHANNELS, hidden_size=32, num_attention_heads=2, mlp_dim=32, mask_input_channels=4
    )


# -- data ------------------------------------------------------------------------------------------------------------


def test_empty_targets(tmp_path: Path) -> None:
    def spoil(batch: SegmentationBatch) -> None:
        batch.original_masks = [torch.zeros_like(mask) for mask in batch.original_masks]

    messages = validated(tmp_path, module(), batches(2, spoil))
    assert cause(messages) == "no targets"
    assert "all 8 ground-truth masks are empty" in messages[0]
    assert "coprs data inspect" in messages[0]


def test_targets_that_are_ignored_count_as_empty(tmp_path: Path) -> None:
    def spoil(batch: SegmentationBatch) -> None:
        batch.original_ignores = [mask.clone() for mask in batch.original_masks]

    assert cause(validated(tmp_path, module(), batches(2, spoil))) == "no targets"


def test_inverted_targets(tmp_path: Path) -> None:
    def spoil(batch: SegmentationBatch) -> None:
        batch.original_masks = [torch.ones_like(mask) for mask in batch.original_masks]

    assert cause(validated(tmp_path, module(), batches(2, spoil))) == "inverted targets"


def test_blank_images(tmp_path: Path) -> None:
    def spoil(batch: SegmentationBatch) -> None:
        batch.images = [torch.full_like(image, 255) for image in batch.images]
        batch.frames = torch.full_like(batch.frames, 255)

    assert cause(validated(tmp_path, module(), batches(2, spoil))) == "blank images"


@pytest.mark.parametrize(
    "units",
    [
        {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)},  # those of pixels from 0 to 255
        {"mean": (0.485, 0.456, 0.406), "std": (0.229 / 255, 0.224 / 255, 0.225 / 255)},
    ],
)
def test_wrong_normalisation(tmp_path: Path, units: dict[str, Any]) -> None:
    backbone = TimmBackbone(model_name="test_resnet", image_size=FRAME, out_index=1, **units)
    messages = validated(tmp_path, module(backbone=backbone))
    assert cause(messages) == "normalisation"
    assert "Leave model.backbone.init_args.mean and std out" in messages[0]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_right_normalisation_of_other_models(tmp_path: Path, name: str) -> None:
    size = 32 if name == "test_resnet" else 160
    backbone = TimmBackbone(model_name=name, image_size=size, out_index=1)
    batch = FrameCollator(size)([rectangle(50, 60, n) for n in range(4)])
    signs = Signs()
    signs._observe_pixels(batch, backbone)
    assert 0.05 < signs.pixel_std < 20
    assert abs(signs.pixel_mean) < 10
    assert findings(Situation(signs, (), trained=False)) == []


# -- weights ---------------------------------------------------------------------------------------------------------


def test_a_zeroed_decoder(tmp_path: Path) -> None:
    made = module()
    zeroed(made.model.decoder)
    messages = validated(tmp_path, made)
    assert cause(messages) == "zero weights"
    assert "all weights of model.decoder are 0" in messages[0]


def test_weights_that_were_never_loaded(tmp_path: Path) -> None:
    messages = validated(tmp_path, module(trained=False))
    assert cause(messages) == "random weights"
    assert "model.policy, model.backbone, model.decoder still at random initial weights" in messages[0]


def test_one_part_that_was_never_loaded(tmp_path: Path) -> None:
    """As after loading a checkpoint that is not strict."""
    made, fresh = module(decoder=sam_decoder()), sam_decoder()
    made.model.decoder.load_state_dict(fresh.state_dict())
    messages = validated(tmp_path, made)
    assert cause(messages) == "random weights"
    assert "model.decoder still at random" in messages[0]


def test_a_frozen_part_without_weights_is_told_before_training(tmp_path: Path) -> None:
    backbone = TimmBackbone(model_name="test_resnet", image_size=FRAME, out_index=1, frozen=True)
    made = module(trained=False, backbone=backbone)
    messages = said(tmp_path, lambda run: run.fit(made, batches()), max_steps=2)
    assert cause(messages) == "random weights"
    assert "model.backbone (frozen) still at random initial weights" in messages[0]
    assert "model.policy" not in messages[0]


def test_keys_that_a_loader_missed(tmp_path: Path) -> None:
    made = module()
    made.model.policy.lm.load_report = {"loaded": 30, "missing": 4, "unexpected": 2}
    messages = validated(tmp_path, made)
    assert cause(messages) == "missing weights"
    assert "policy: 30 loaded, 4 missing, 2 unexpected" in messages[0]


def test_a_loaded_policy_says_so(tmp_path: Path) -> None:
    policy = small_policy()
    assert look_at("policy", policy).loading is None
    policy.lm.save_pretrained(tmp_path / "saved")
    policy.processor.save_pretrained(tmp_path / "saved")
    loaded = small_policy(model=str(tmp_path / "saved"), random_weights=False, config_overrides=None)
    report = look_at("policy", loaded).loading
    assert report is not None
    assert report["loaded"] > 20
    assert (report["missing"], report["unexpected"]) == (0, 0)


def test_nan_weights(tmp_path: Path) -> None:
    made = module()
    with torch.no_grad():
        made.model.decoder.head.weight[0, 0, 0, 0] = float("nan")
    messages = validated(tmp_path, made)
    assert cause(messages) == "not finite"
    assert "8 of 8 answers have logits that are NaN" in messages[0]
    assert "model.decoder.head.weight" in messages[0]


# -- from features to masks ------------------------------------------------------------------------------------------


def test_features_without_content(tmp_path: Path) -> None:
    def spoil(batch: SegmentationBatch) -> None:
        batch.features = torch.full((4, CHANNELS, 8, 8), 0.5)

    made = module(backbone=CachedBackbone(out_channels=CHANNELS, stride=4, image_size=FRAME))
    assert cause(validated(tmp_path, made, batches(2, spoil))) == "flat features"


def test_a_heatmap_head_that_says_the_same_everywhere(tmp_path: Path) -> None:
    made = module()
    nn.init.zeros_(made.model.heatmap_head.fuser[-1].weight)
    messages = validated(tmp_path, made)
    assert cause(messages) == "flat heatmaps"


def test_a_heatmap_that_does_not_hear_the_question(tmp_path: Path) -> None:
    def spoil(batch: SegmentationBatch) -> None:  # two images, two questions about each
        for name in ("images", "original_masks", "original_ignores"):
            values = getattr(batch, name)
            setattr(batch, name, [values[0], values[0], values[2], values[2]])
        for name in ("frames", "valid_sizes", "masks"):
            setattr(batch, name, getattr(batch, name)[[0, 0, 2, 2]])
        batch.frame_index = torch.tensor([0, 0, 2, 2])

    torch.manual_seed(4)
    made = module(heatmap_head=FiLMHead(query_dim=32, in_channels=CHANNELS, dim=16))
    assert validated(tmp_path, made, batches(2, spoil)) == []
    for values in made.model.heatmap_head.parameters():
        if values.ndim == 2:  # what is linear in the query
            nn.init.zeros_(values)
    messages = validated(tmp_path, made, batches(2, spoil))
    assert cause(messages) == "deaf heatmaps"
    assert "all 4 pairs of questions about one image have the same heatmap" in messages[0]


def test_a_decoder_that_says_the_same_everywhere(tmp_path: Path) -> None:
    made = module(decoder=sam_decoder())
    for name, values in made.model.decoder.named_parameters():
        if "hypernet" in name:
            nn.init.zeros_(values)
    assert cause(validated(tmp_path, made)) == "dead decoder"


@pytest.mark.parametrize(("bias", "name"), [(-100.0, "empty masks"), (100.0, "full masks")])
def test_masks_that_are_all_empty_or_all_full(tmp_path: Path, bias: float, name: str) -> None:
    made = module()
    nn.init.constant_(made.model.decoder.head.bias, bias)
    assert cause(validated(tmp_path, made)) == name


# -- completions -----------------------------------------------------------------------------------------------------


def test_the_token_is_not_in_what_is_taught(tmp_path: Path) -> None:
    made = module()
    made.model.policy.concentration_id = 5  # as after a tokenizer without it
    messages = said(tmp_path, lambda run: run.fit(made, batches()), max_steps=2)
    assert cause(messages) == "token not taught"
    assert "8 of 8 written completions have no concentration token" in messages[0]


def test_a_policy_that_never_writes_the_token(tmp_path: Path) -> None:
    made = module()
    made.validation = "generate"
    messages = validated(tmp_path, made)
    assert cause(messages) == "token never written"
    assert "(the first: " in messages[0] or "(they are blank)" in messages[0]


class Writing(TinySegmenter):
    """Writes what it is told to."""

    def __init__(self, *texts: str, truncated: bool = False, present: bool = False, **fields: Any) -> None:
        super().__init__()
        self.texts = texts
        self.cut = truncated
        self.shown = present
        self.fields = fields

    def validation_step(self, batch: SegmentationBatch, batch_idx: int) -> SegmentationOutput:
        output = super().validation_step(batch, batch_idx)
        texts = [self.texts[row % len(self.texts)] for row in range(len(batch))]
        completions = replace(output.completions, texts=texts, truncated=torch.full((len(batch),), self.cut))
        heatmap, mask = self.logits(batch)
        present = torch.full((len(batch), 1), self.shown)
        fields = {name: value.expand(len(batch), 1) for name, value in self.fields.items()}
        return replace(
            output, completions=completions, present=present, heatmap_logits=heatmap, mask_logits=mask, **fields
        )


def test_thoughts_that_are_cut_off(tmp_path: Path) -> None:
    made = Writing("<think> it is the one beside the", truncated=True)
    messages = validated(tmp_path, made, loader(range(8)))
    assert cause(messages) == "cut off"
    assert "Raise model.generation.max_new_tokens" in messages[0]


def test_completions_without_form(tmp_path: Path) -> None:
    messages = validated(tmp_path, Writing("<REF_POS> here", present=True), loader(range(8)))
    assert "only 0 of 8 completions keep the format (the first: '<REF_POS> here')" in messages[0]
    assert cause(messages) == "malformed"


def test_confidences_that_doubt_everything(tmp_path: Path) -> None:
    good = "<think> it is red </think> <REF_POS>"
    made = Writing(good, present=True, confidence_logits=torch.tensor(-3.0))
    data = loader(range(5))  # the sixth has no target
    assert cause(validated(tmp_path, made, data)) == "no confidence"


def test_reinforcement_of_a_policy_without_the_token(tmp_path: Path) -> None:
    """Told before the first reward could be earned, though the weights are fresh."""
    made = module()
    made.objective = GRPOObjective(num_generations=2, beta=0.0, rollout=TransformersRollout(max_new_tokens=4))
    messages = said(tmp_path, lambda run: run.fit(made, batches()), max_steps=2)
    assert cause(messages) == "token never written"
    assert "before reinforcement teach the format" in messages[0]


def test_every_cause_is_brought_about_above() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert len({one.name for one in CAUSES}) == len(CAUSES) == 19
    for one in CAUSES:
        assert f'"{one.name}"' in source, one.name
