"""Small real parts: a Qwen2.5-VL of 100 000 parameters, a timm backbone, and batches of rectangles."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coprs_lightning.aggregators import LastTokenAggregator
from coprs_lightning.backbones import TimmBackbone
from coprs_lightning.decoders import ConvMaskDecoder
from coprs_lightning.heatmap_heads import CrossAttentionHead
from coprs_lightning.model import CoprsModel
from coprs_lightning.policies import HFPolicy
from coprs_lightning.structures import Example, SegmentationBatch
from datamodules.collate import FrameCollator

FRAME = 32
CHANNELS = 32

SIZES: dict[str, Any] = {
    "text_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"mrope_section": [2, 3, 3]},
        # wide enough that positions and pixels change the hidden states by far more than rounding
        "initializer_range": 0.3,
    },
    "vision_config": {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
        "initializer_range": 0.3,
    },
}


def small_policy(**options: Any) -> HFPolicy:
    """A policy of width 32 in eval mode, always with the same weights; ``options`` on top."""
    torch.manual_seed(7)
    given = {
        "model": "small_qwen2_5_vl",
        "random_weights": True,
        "config_overrides": copy.deepcopy(SIZES),
        "min_pixels": 28 * 28,
        "max_pixels": 84 * 84,
    }
    return HFPolicy(**{**given, **options}).eval()


def photos(*sizes: tuple[int, int]) -> list[Tensor]:
    """Random images (3, H, W) uint8 of the given (height, width)."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]


def small_model(*, policy: HFPolicy | None = None, frozen_backbone: bool = True, **options: Any) -> CoprsModel:
    """All five parts at their smallest, in eval mode, always with the same weights."""
    policy = small_policy() if policy is None else policy
    torch.manual_seed(8)
    parts: dict[str, Any] = {
        "policy": policy,
        "backbone": TimmBackbone(model_name="test_resnet", image_size=FRAME, out_index=1, frozen=frozen_backbone),
        "aggregator": LastTokenAggregator(hidden_size=policy.hidden_size),
        "heatmap_head": CrossAttentionHead(query_dim=policy.hidden_size, in_channels=CHANNELS, dim=16),
        "decoder": ConvMaskDecoder(in_channels=CHANNELS, hidden=8, depth=1),
    }
    model = CoprsModel(**{**parts, **options}).eval()
    if isinstance(model.decoder, ConvMaskDecoder):
        torch.nn.init.normal_(model.decoder.head.weight)  # starts at zero: nothing before it would get gradients
    return model


def rectangle(height: int, width: int, number: int) -> Example:
    """A red rectangle on noise; ``number`` decides noise, place and question."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), dtype=bool)
    top, left = int(rng.integers(0, height // 2)), int(rng.integers(0, width // 2))
    mask[top : top + height // 3, left : left + width // 2] = True
    image[mask] = (230, 30, 30)
    question = f"the red {'rectangle ' * (1 + number % 3)}number {number}"
    reasoning = f"it is red {'and large ' * (number % 4)}"
    return Example(f"example {number}", image, question, mask, reasoning=reasoning)


def small_batch(count: int = 3) -> SegmentationBatch:
    """Rectangles in images of different sizes, with questions and thoughts of different lengths."""
    sizes = [(40, 60), (64, 48), (30, 90), (50, 50)]
    return FrameCollator(FRAME)([rectangle(*sizes[i % len(sizes)], i) for i in range(count)])


def part_of_batch(batch: SegmentationBatch, rows: list[int]) -> SegmentationBatch:
    """The examples ``rows`` of a batch, in that order."""

    def pick(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[rows]
        return [value[row] for row in rows] if isinstance(value, list) else value

    return SegmentationBatch(**{field.name: pick(getattr(batch, field.name)) for field in fields(batch)})
