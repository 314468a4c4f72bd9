"""Small checkpoints of vision models in transformers' own format: configuration, random weights, image processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

SIZES: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}

SAM2_VISION: dict[str, Any] = {
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "global_attention_blocks": [3],
        "window_size_per_stage": [4, 2, 2, 2],
        "window_positional_embedding_background_size": [4, 4],
        "image_size": [64, 64],
    },
    "backbone_channel_list": [64, 32, 16, 8],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 16,
}
SAM2_REST: dict[str, Any] = {
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 64},
    "mask_decoder_config": {
        "hidden_size": 16,
        "mlp_dim": 16,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
    },
}


def dinov3() -> tuple[Any, Any]:
    config = hf.DINOv3ViTConfig(**SIZES, intermediate_size=32, num_register_tokens=4, pos_embed_rescale=None)
    return hf.DINOv3ViTModel(config), hf.DINOv3ViTImageProcessor()


def dinov3_convnext() -> tuple[Any, Any]:
    config = hf.DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
    return hf.DINOv3ConvNextModel(config), hf.DINOv3ViTImageProcessor()


def dinov2() -> tuple[Any, Any]:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    processor = hf.BitImageProcessor(
        size={"shortest_edge": 80}, crop_size={"height": 56, "width": 56}, image_mean=mean, image_std=std
    )
    return hf.Dinov2Model(hf.Dinov2Config(**SIZES, image_size=56, patch_size=14)), processor


def dinov2_with_registers() -> tuple[Any, Any]:
    config = hf.Dinov2WithRegistersConfig(**SIZES, image_size=56, patch_size=14, num_register_tokens=3)
    return hf.Dinov2WithRegistersModel(config), dinov2()[1]


def sam2() -> tuple[Any, Any]:
    config = hf.Sam2Config(vision_config=SAM2_VISION, **SAM2_REST)
    return hf.Sam2Model(config), hf.Sam2ImageProcessor(size={"height": 64, "width": 64})


def sam2_vision() -> tuple[Any, Any]:
    return hf.Sam2VisionModel(hf.Sam2VisionConfig(**SAM2_VISION)), hf.Sam2ImageProcessor()


def vit() -> tuple[Any, Any]:
    config = hf.ViTConfig(**SIZES, intermediate_size=32, image_size=56, patch_size=14)
    return hf.ViTModel(config), hf.ViTImageProcessor()


def siglip() -> tuple[Any, Any]:
    text = {**SIZES, "intermediate_size": 32, "vocab_size": 99}
    vision = {**SIZES, "intermediate_size": 32, "image_size": 56, "patch_size": 14}
    return hf.SiglipModel(hf.SiglipConfig(vision_config=vision, text_config=text)), hf.SiglipImageProcessor()


MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {
    function.__name__: function
    for function in (dinov3, dinov3_convnext, dinov2, dinov2_with_registers, sam2, sam2_vision, vit, siglip)
}


def save(name: str, folder: Path, *, with_processor: bool = True) -> Any:
    """Write one of them; returns the model in eval mode, with weights large enough to matter."""
    model, processor = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    if with_processor:
        processor.save_pretrained(folder)
    return model.eval()
