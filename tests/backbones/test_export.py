"""Backbones and decoders from public checkpoints in an exported folder: rebuilt without them, masks identical."""

from __future__ import annotations

import shutil

import pytest
import torch

from coprs_lightning.backbones import HFBackbone, SamBackbone, TimmBackbone
from coprs_lightning.checkpoints.folder import write_folder
from coprs_lightning.decoders import SamMaskDecoder
from coprs_lightning.heatmap_heads import CrossAttentionHead
from coprs_lightning.model import CoprsModel
from datamodules.collate import FrameCollator
from tests.backbones.hf_checkpoints import save
from tests.parts import rectangle, small_model
from tests.sam_original import save_original

pytest.importorskip("segment_anything", reason="small original files are built by the segment-anything package")

SIDE = 64


def sam(folder):
    save_original(folder / "sam.pth")
    return SamBackbone(pretrained=str(folder / "sam.pth"), frozen=True)


def sam2(folder):
    save("sam2", folder / "sam2")
    return HFBackbone(model=str(folder / "sam2"), frozen=True)


def dinov3(folder):
    save("dinov3", folder / "dinov3")
    return HFBackbone(model=str(folder / "dinov3"), image_size=SIDE)


def timm(folder):
    return TimmBackbone(model_name="test_vit", image_size=SIDE, position_channels=8)


@pytest.mark.parametrize("make", [sam, sam2, dinov3, timm])
def test_masks_before_and_after_are_identical(make, tmp_path):
    sources = tmp_path / "sources"
    sources.mkdir()
    save_original(sources / "decoder.pth")
    backbone = make(sources)
    channels = backbone.out_channels
    model = small_model(
        backbone=backbone,
        heatmap_head=CrossAttentionHead(query_dim=32, in_channels=channels, dim=16),
        decoder=SamMaskDecoder(in_channels=channels, pretrained=str(sources / "decoder.pth")),
    )
    (tmp_path / "exported").mkdir()
    write_folder(model, {}, tmp_path / "exported")
    shutil.rmtree(sources)
    again = CoprsModel.from_pretrained(tmp_path / "exported")
    batch = FrameCollator(SIDE)([rectangle(40, 60, 0), rectangle(64, 48, 1)])
    prompts = model.policy.encode_prompts(batch.images, batch.questions)
    completions = model.policy.encode_completions(["it is red", "it is large"])
    with torch.no_grad():
        expected, result = model(batch, prompts, completions), again(batch, prompts, completions)
    assert torch.equal(result.mask_logits, expected.mask_logits)
    assert torch.equal(result.heatmap_logits, expected.heatmap_logits)
    assert again.backbone.preprocessing == backbone.preprocessing
