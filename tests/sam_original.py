"""SAM as the ``segment_anything`` package builds it, with random weights that are large enough to matter."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

IMAGE_SIZE = 64
PATCH = 8
CHANNELS = 32


def build_original(*, grid: int = IMAGE_SIZE // PATCH, window: int = 3) -> Any:
    """A small SAM: three layers, one of them over the whole grid of 8 × 8 cells; 8 heads in the decoder, as always."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    side = grid * PATCH
    encoder = ImageEncoderViT(
        img_size=side,
        patch_size=PATCH,
        embed_dim=24,
        depth=3,
        num_heads=2,
        out_chans=CHANNELS,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=window,
        global_attn_indexes=(1,),
    )
    prompt_encoder = PromptEncoder(
        embed_dim=CHANNELS, image_embedding_size=(grid, grid), input_image_size=(side, side), mask_in_chans=8
    )
    decoder = MaskDecoder(
        transformer_dim=CHANNELS,
        transformer=TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=48, num_heads=8),
    )
    sam = Sam(encoder, prompt_encoder, decoder, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    return shaken(sam)


def shaken(sam: Any, amount: float = 0.2) -> Any:
    """In eval mode, with noise on every weight: relative positions, say, start at zero and would hide mistakes."""
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.add_(amount * torch.randn_like(parameter))
    return sam.eval()


def save_original(file: Path, **sizes: int) -> Any:
    """Write a small SAM as its package's files are: one flat state dict. Returns the SAM."""
    sam = build_original(**sizes)
    torch.save(sam.state_dict(), file)
    return sam


def to_transformers(sam: Any, folder: Path, **vision: Any) -> None:
    """Write the same weights as transformers' ``SamModel``, in its own format.

    Args:
        sam: SAM of the ``segment_anything`` package.
        folder: where to.
        vision: sizes of the image encoder for transformers' configuration; those of :func:`build_original` if none.
    """
    from transformers import SamConfig, SamModel

    from coprs_lightning.sam_original import encoder_names, prompt_and_decoder_names

    small = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "patch_size": PATCH,
        "image_size": IMAGE_SIZE,
        "output_channels": CHANNELS,
        "window_size": 3,
        "global_attn_indexes": [1],
        "num_pos_feats": CHANNELS // 2,
        "mlp_dim": 96,
    }
    vision = vision or small
    channels = vision["output_channels"]
    state = sam.state_dict()
    config = SamConfig(
        vision_config=vision,
        prompt_encoder_config={
            "hidden_size": channels,
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "mask_input_channels": len(state["prompt_encoder.mask_downscaling.3.weight"]),
        },
        mask_decoder_config={
            "hidden_size": channels,
            "num_attention_heads": 8,
            "mlp_dim": len(state["mask_decoder.transformer.layers.0.mlp.lin1.weight"]),
            "iou_head_hidden_dim": 256,
            "layer_norm_eps": 1e-5,
        },
    )
    with torch.device("meta"):
        model = SamModel(config)
    names = {**encoder_names(vision["num_hidden_layers"]), **prompt_and_decoder_names()}
    converted = {new: state[old] for old, new in names.items()}
    converted["shared_image_embedding.positional_embedding"] = converted[
        "prompt_encoder.shared_embedding.positional_embedding"
    ].clone()
    model.load_state_dict(converted, assign=True)
    model.save_pretrained(folder)
