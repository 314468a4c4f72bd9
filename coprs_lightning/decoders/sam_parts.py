"""Building, loading and trimming the parts of transformers' SAM that the mask decoder is made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from coprs_lightning.decoders.sam_original import original_names, our_names
from coprs_lightning.sam_original import (
    check_names,
    count_layers,
    dimensions,
    encoder_names,
    fill,
    is_original,
    read_original,
)
from coprs_lightning.weightless import only_shapes

ORIGINAL_EPS = 1e-5
"""Of the layer norms in the original's attention; transformers' own default is 1e-6."""


def random_parts(
    *,
    hidden_size: int,
    num_layers: int,
    num_attention_heads: int,
    mlp_dim: int,
    attention_downsample_rate: int,
    mask_input_channels: int,
    layer_norm_eps: float,
) -> tuple[Any, Any]:
    """Prompt encoder and mask decoder with random weights.

    Raises:
        ValueError: for sizes that do not divide each other.
    """
    if hidden_size % (num_attention_heads * attention_downsample_rate) or hidden_size % 8:
        raise ValueError(
            f"SamMaskDecoder.hidden_size {hidden_size} must be a multiple of 8 and of num_attention_heads "
            f"{num_attention_heads} × attention_downsample_rate {attention_downsample_rate}: heads need equal width, "
            "and the upscaling divides it by 8."
        )
    if mask_input_channels % 4:
        raise ValueError(f"SamMaskDecoder.mask_input_channels must be a multiple of 4, got {mask_input_channels}.")
    from transformers import SamConfig
    from transformers.models.sam import modeling_sam

    config: Any = SamConfig(
        vision_config={"num_pos_feats": hidden_size // 2},
        prompt_encoder_config={"hidden_size": hidden_size, "mask_input_channels": mask_input_channels},
        mask_decoder_config={
            "hidden_size": hidden_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": num_attention_heads,
            "mlp_dim": mlp_dim,
            "attention_downsample_rate": attention_downsample_rate,
            "layer_norm_eps": layer_norm_eps,
        },
    )
    # transformers draws the frequencies with a standard deviation of half the encoder's width, which is noise from one
    # cell to the next; SAM itself was trained with 1
    config.vision_config.scale = 1.0
    config.mask_decoder_config._attn_implementation = "sdpa"
    return modeling_sam.SamPromptEncoder(config), modeling_sam.SamMaskDecoder(config.mask_decoder_config)


def pretrained_parts(pretrained: str) -> tuple[Any, Any]:
    """Prompt encoder and mask decoder of a SAM checkpoint.

    The image encoder's layers are not loaded: it is another slot, and 2.5 GB for ViT-H.

    Args:
        pretrained: hub id or folder of a transformers checkpoint, or an original ``.pth`` file.

    Raises:
        ValueError: when the checkpoint lacks a weight, or an original one holds others.
    """
    return _from_original(pretrained) if is_original(pretrained) else _from_transformers(pretrained)


def _from_original(file: str) -> tuple[Any, Any]:
    option = f"SamMaskDecoder.pretrained: {file}"
    weights = read_original(file, "SamMaskDecoder.pretrained")
    layers = max(1, count_layers(weights, "mask_decoder.transformer.layers."))
    other_slot = encoder_names(count_layers(weights, "image_encoder.blocks."))
    check_names(weights, our_names(layers), other_slot, option)
    with torch.device("meta"):  # no memory and no time for random weights
        prompt_encoder, mask_decoder = random_parts(**_sizes(weights, option), layer_norm_eps=ORIGINAL_EPS)
    kept = nn.ModuleDict(
        {
            "mask_embed": prompt_encoder.mask_embed,
            "position_embed": prompt_encoder.shared_embedding,
            "mask_decoder": single_mask(mask_decoder),
        }
    ).to_empty(device="cpu")
    originals = original_names(layers)
    fill(kept, {ours: weights[original] for ours, original in originals.items()}, originals, option)
    return prompt_encoder, mask_decoder


def _sizes(weights: dict[str, Tensor], option: str) -> dict[str, int]:
    """Sizes of an original decoder, from the shapes of its weights; the number of heads leaves no trace in them."""
    hidden = dimensions(weights, "mask_decoder.mask_tokens.weight", 2, option)[1]
    cross = dimensions(weights, "mask_decoder.transformer.final_attn_token_to_image.q_proj.weight", 2, option)[0]
    return {
        "hidden_size": hidden,
        "num_layers": count_layers(weights, "mask_decoder.transformer.layers."),
        "num_attention_heads": 8,
        "mlp_dim": dimensions(weights, "mask_decoder.transformer.layers.0.mlp.lin1.weight", 2, option)[0],
        "attention_downsample_rate": max(1, hidden // cross),
        "mask_input_channels": dimensions(weights, "prompt_encoder.mask_downscaling.3.weight", 4, option)[0],
    }


def _from_transformers(pretrained: str) -> tuple[Any, Any]:
    from transformers import SamConfig, SamModel
    from transformers.utils import logging

    config: Any = SamConfig.from_pretrained(pretrained)
    config.vision_config.num_hidden_layers = 0
    config.vision_config.global_attn_indexes = []
    if only_shapes():
        shapes = SamModel(config)
        return shapes.prompt_encoder, shapes.mask_decoder
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would report every layer that is left out on purpose
    try:
        loaded: Any = SamModel.from_pretrained(
            pretrained, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        logging.set_verbosity(verbosity)
    model, info = loaded
    bad = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in info[kind])
    if bad:
        raise ValueError(
            f"SamMaskDecoder.pretrained: {pretrained} lacks {len(bad)} weights of SAM ({', '.join(bad[:3])} …), which "
            "would stay random. Give the folder or hub id of a complete SamModel, such as facebook/sam-vit-huge."
        )
    return model.prompt_encoder, model.mask_decoder


def single_mask(decoder: Any) -> nn.Module:
    """Drop what only the IoU score and the three further masks need.

    All four mask tokens stay: they take part in the attention between tokens.
    """
    decoder.output_hypernetworks_mlps = decoder.output_hypernetworks_mlps[:1]
    decoder.num_mask_tokens = 1
    decoder.iou_prediction_head = nn.Identity()
    return decoder


def sizes_of(decoder: Any) -> dict[str, Any]:
    """Arguments that build a decoder of ours of the same sizes with random weights."""
    config = decoder.mask_decoder.config
    return {
        "hidden_size": int(config.hidden_size),
        "num_layers": int(config.num_hidden_layers),
        "num_attention_heads": int(config.num_attention_heads),
        "mlp_dim": int(config.mlp_dim),
        "attention_downsample_rate": int(config.attention_downsample_rate),
        "mask_input_channels": int(decoder.mask_embed.conv2.out_channels),
        "layer_norm_eps": float(config.layer_norm_eps),
    }


def projection(in_channels: int, hidden_size: int) -> nn.Module:
    """Bring features to the decoder's width, normalised over channels as SAM's own neck leaves them."""
    if in_channels == hidden_size:
        return nn.Identity()
    from transformers.models.sam.modeling_sam import SamLayerNorm

    return nn.Sequential(
        nn.Conv2d(in_channels, hidden_size, 1, bias=False), SamLayerNorm(hidden_size, data_format="channels_first")
    )
