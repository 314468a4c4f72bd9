"""Names of weights in the paper's released code (``refseg_modules.pt``) and in ours.

Their file holds ``heatmap_head.*``, and SAM's ``prompt_encoder.*`` and ``mask_decoder.*`` by the names of the
``segment_anything`` package. Our decoder keeps of SAM what a mask prompt and a single mask need; the rest is left over.
"""

from __future__ import annotations

from collections.abc import Iterable

HEAD = "heatmap_head."
PREFIXES = (HEAD, "prompt_encoder.", "mask_decoder.")

_THEIRS_BY_OURS = (
    ("position_embed.positional_embedding", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    ("mask_embed.conv1.", "prompt_encoder.mask_downscaling.0."),
    ("mask_embed.layer_norm1.", "prompt_encoder.mask_downscaling.1."),
    ("mask_embed.conv2.", "prompt_encoder.mask_downscaling.3."),
    ("mask_embed.layer_norm2.", "prompt_encoder.mask_downscaling.4."),
    ("mask_embed.conv3.", "prompt_encoder.mask_downscaling.6."),
    (".upscale_conv1.", ".output_upscaling.0."),
    (".upscale_layer_norm.", ".output_upscaling.1."),
    (".upscale_conv2.", ".output_upscaling.3."),
    (".layer_norm_final_attn.", ".norm_final_attn."),
    *((f".layer_norm{i}.", f".norm{i}.") for i in range(1, 5)),
)
_MLPS = (".output_hypernetworks_mlps.", ".iou_prediction_head.")
_MLP_LAYERS = ((".layers.0.", ".layers.1."), (".proj_in.", ".layers.0."), (".proj_out.", ".layers.2."))

_MLP = [f"layers.{layer}.{kind}" for layer in range(3) for kind in ("weight", "bias")]
LEFT_OVER = frozenset(
    [f"prompt_encoder.point_embeddings.{i}.weight" for i in range(4)]
    + ["prompt_encoder.not_a_point_embed.weight", "prompt_encoder.no_mask_embed.weight"]
    + [f"mask_decoder.output_hypernetworks_mlps.{i}.{name}" for i in range(1, 4) for name in _MLP]
    + [f"mask_decoder.iou_prediction_head.{name}" for name in _MLP]
)
"""Weights of SAM that our decoder has no place for: point prompts, "no mask", further masks, and their scores."""


def theirs(ours: str) -> str:
    """Their name of a weight of our SAM decoder (``mask_embed.…``, ``position_embed.…``, ``mask_decoder.…``)."""
    name = ours
    for old, new in _THEIRS_BY_OURS:
        name = name.replace(old, new)
    if any(part in name for part in _MLPS):
        for old, new in _MLP_LAYERS:
            if old in name:
                return name.replace(old, new)
    return name


def from_transformers(name: str) -> str:
    """Their name of a weight of transformers' ``SamModel``."""
    name = name.replace("prompt_encoder.mask_embed.", "mask_embed.").replace(".point_embed.", ".point_embeddings.")
    return theirs(name.replace("prompt_encoder.shared_embedding.", "position_embed."))


def listed(names: Iterable[str], shown: int = 12) -> str:
    """Names for a message, one a line, the first of them."""
    everything = sorted(names)
    more = [f"… and {len(everything) - shown} more"] if len(everything) > shown else []
    return "".join(f"\n  {line}" for line in [*everything[:shown], *more])
