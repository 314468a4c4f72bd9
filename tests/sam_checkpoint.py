"""A small SAM checkpoint in transformers' format, with random weights that are large enough to matter."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import SamConfig, SamModel

IMAGE_SIZE = 64


def build_sam() -> SamModel:
    """Random SAM for 64 px: patches of 8, hence an 8 × 8 grid, and 16 output channels."""
    config = SamConfig(
        vision_config={
            "hidden_size": 24,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": IMAGE_SIZE,
            "patch_size": 8,
            "window_size": 3,
            "global_attn_indexes": [1],
            "num_pos_feats": 8,
            "mlp_dim": 32,
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": IMAGE_SIZE,
            "patch_size": 8,
            "mask_input_channels": 8,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    model = SamModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def save_sam(folder: Path, *, without: str = "") -> SamModel:
    """Write the checkpoint, leaving out the weights whose name starts with ``without``."""
    model = build_sam()
    state = {k: v for k, v in model.state_dict().items() if not without or not k.startswith(without)}
    model.save_pretrained(folder, state_dict=state)
    return model
