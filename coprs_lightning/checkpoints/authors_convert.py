"""The released code's checkpoint as a model of ours: every weight gets a place or is named as left over."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coprs_lightning.aggregators import LastTokenAggregator
from coprs_lightning.backbones import CachedBackbone, ImageBackbone, SamBackbone
from coprs_lightning.checkpoints.authors_files import LANGUAGE_MODEL, MODULES
from coprs_lightning.checkpoints.authors_keys import HEAD, LEFT_OVER, listed, theirs
from coprs_lightning.checkpoints.parts import build_model
from coprs_lightning.checkpoints.weights import load_strictly
from coprs_lightning.commands import CommandError
from coprs_lightning.decoders import SamMaskDecoder
from coprs_lightning.heatmap_heads import CrossAttentionHead, LinearFuseCrossAttentionHead
from coprs_lightning.policies import HFPolicy
from coprs_lightning.policies.loading import UnusedWeightsWarning
from coprs_lightning.weightless import without_weights

GENERATION = {"max_new_tokens": 2000, "temperature": 0.0}
ASSUMED = (
    "heatmap_head.q_proj, .k_proj and .fuser have the names and shapes that the paper's code is known to use; "
    "fuser is Sequential(convolution, SiLU, convolution), or one 1 × 1 convolution",
    "the decoder's attention has 8 heads, as SAM's (shapes do not tell)",
    "k_proj and q_proj are divided among as many heads as the first convolution of fuser has inputs",
    "the query comes from the last concentration token's hidden state after the last layer's norm",
    "prompts are those of the paper for one object",
)
"""What the files do not tell."""


@dataclass
class Converted:
    """A converted checkpoint.

    Attributes:
        model: the model, in eval mode.
        left_over: weights without a place, by their name.
        report: what became of every weight.
    """

    model: Any
    left_over: dict[str, Tensor]
    report: dict[str, Any]


def _policy(folder: Path) -> HFPolicy:
    """The language model; as strict as the rest.

    Raises:
        CommandError: for weights that are missing or have no place.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UnusedWeightsWarning)
            return HFPolicy(model=str(folder), dtype="auto")
    except (UnusedWeightsWarning, ValueError) as error:
        raise CommandError(str(error)) from error


def convert(modules: dict[str, Tensor], source: Path, backbone: str, image_size: int) -> Converted:
    """Build a model of a released checkpoint.

    Args:
        modules: see :func:`~coprs_lightning.checkpoints.authors_files.read_modules`.
        source: folder with the language model.
        backbone: SAM checkpoint of the image encoder, or ``none`` for precomputed features.
        image_size: side of the frames.

    Raises:
        CommandError: for weights that are missing or have no place.
    """
    sizes = _sizes(modules)
    policy = _policy(source / LANGUAGE_MODEL)
    with without_weights():
        head, decoder = _head(modules, sizes, policy.hidden_size), _decoder(modules, sizes)
    # segmentation runs in full precision, whatever the file's
    full = {name: value.float() for name, value in modules.items()}
    names = {name: f"heatmap_head.{name}" for name in head.state_dict()}
    head_taken = _fill(head, full, names)
    decoder_taken = _fill(decoder, full, {name: theirs(name) for name in decoder.state_dict()})
    left_over = {name: value for name, value in modules.items() if name in LEFT_OVER}
    unknown = set(modules) - set(head_taken.values()) - set(decoder_taken.values()) - set(left_over)
    if unknown:
        raise CommandError(f"{MODULES} holds weights that have no place in our model:{listed(unknown)}")
    parts = {
        "policy": policy,
        "backbone": _backbone(backbone, image_size, decoder.in_channels),
        "aggregator": LastTokenAggregator(hidden_size=policy.hidden_size),
        "heatmap_head": head,
        "decoder": decoder,
    }
    report = {
        "source": source.name,
        "placed": {f"heatmap_head.{ours}": name for ours, name in head_taken.items()}
        | {f"decoder.{ours}": name for ours, name in decoder_taken.items()},
        "left_over": sorted(left_over),
        "dtypes": {name: str(value.dtype).removeprefix("torch.") for name, value in sorted(modules.items())},
        "language_model": {"folder": LANGUAGE_MODEL, "class": type(policy.lm).__name__},
        "backbone": backbone,
        "assumed": list(ASSUMED),
    }
    return Converted(build_model(parts, GENERATION), left_over, report)


def _sizes(modules: dict[str, Tensor]) -> dict[str, torch.Size]:
    needed = {
        "query": f"{HEAD}q_proj.weight",
        "key": f"{HEAD}k_proj.weight",
        "tokens": "mask_decoder.mask_tokens.weight",
        "cross": "mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight",
        "mlp": "mask_decoder.transformer.layers.0.mlp.lin1.weight",
        "embed": "prompt_encoder.mask_downscaling.3.weight",
    }
    absent = [name for name in needed.values() if name not in modules]
    if absent:
        raise CommandError(f"{MODULES} lacks weights, so the model would not be whole:{listed(absent)}")
    return {what: modules[name].shape for what, name in needed.items()}


def _head(modules: dict[str, Tensor], sizes: dict[str, torch.Size], hidden_size: int) -> CrossAttentionHead:
    dim, query_dim = sizes["query"]
    if query_dim != hidden_size:
        raise CommandError(
            f"{HEAD}q_proj takes queries of {query_dim}, but the model in {LANGUAGE_MODEL} has hidden states of "
            f"{hidden_size}: the two are not of one training."
        )
    fuser = modules.get(f"{HEAD}fuser.0.weight")
    if fuser is None:
        raise CommandError(f"{MODULES} lacks {HEAD}fuser.0.weight, so the number of heads is unknown.")
    kind = CrossAttentionHead if f"{HEAD}fuser.2.weight" in modules else LinearFuseCrossAttentionHead
    return kind(
        query_dim=query_dim, in_channels=sizes["key"][1], dim=dim, num_heads=int(fuser.shape[1]), lr_multiplier=25.0
    )


def _decoder(modules: dict[str, Tensor], sizes: dict[str, torch.Size]) -> SamMaskDecoder:
    hidden = int(sizes["tokens"][1])
    layers = {name.split(".")[3] for name in modules if name.startswith("mask_decoder.transformer.layers.")}
    return SamMaskDecoder(
        in_channels=hidden,
        hidden_size=hidden,
        num_layers=len(layers),
        num_attention_heads=8,
        mlp_dim=int(sizes["mlp"][0]),
        attention_downsample_rate=hidden // int(sizes["cross"][0]),
        mask_input_channels=int(sizes["embed"][0]),
        layer_norm_eps=1e-5,  # of the original package, which their code runs
        lr_multiplier=5.0,
        prompt_lr_multiplier=10.0,
    )


def _fill(part: torch.nn.Module, modules: dict[str, Tensor], names: dict[str, str]) -> dict[str, str]:
    """Load a part; returns their name for each of ours."""
    absent = [name for name in names.values() if name not in modules]
    if absent:
        raise CommandError(f"{MODULES} lacks weights, so the model would not be whole:{listed(absent)}")
    load_strictly(part, {ours: modules[name] for ours, name in names.items()}, source=MODULES)
    return names


def _backbone(backbone: str, image_size: int, channels: int) -> ImageBackbone:
    if backbone == "none":
        return CachedBackbone(out_channels=channels, image_size=image_size)
    return SamBackbone(pretrained=backbone, image_size=image_size, frozen=True)
