"""Names of :class:`~coprs_lightning.decoders.sam.SamMaskDecoder`'s weights in the ``segment_anything`` package.

Our decoder keeps of SAM's prompt encoder and mask decoder what a mask prompt and a single mask need. Both directions
are here, and the names that have no place in ours: point prompts, "no mask", three further masks, and their scores.
"""

from __future__ import annotations

import re

from coprs_lightning.sam_original import prompt_and_decoder_names

_UNUSED = (
    "prompt_encoder.point_embeddings.",
    "prompt_encoder.not_a_point_embed.",
    "prompt_encoder.no_mask_embed.",
    "mask_decoder.iou_prediction_head.",
    *(f"mask_decoder.output_hypernetworks_mlps.{mask}." for mask in range(1, 4)),
)


def our_names(layers: int = 2) -> dict[str, str | None]:
    """Name in our decoder's state dict by original name; ``None`` where our decoder has no place for a weight.

    Args:
        layers: two-way attention layers (SAM: 2).
    """
    return {
        original: None if original.startswith(_UNUSED) else _ours(name)
        for original, name in prompt_and_decoder_names(layers).items()
    }


def original_names(layers: int = 2) -> dict[str, str]:
    """Original name by name in our decoder's state dict; ``project.*`` of other features' widths is not SAM's."""
    return {ours: original for original, ours in our_names(layers).items() if ours is not None}


UNUSED = frozenset(name for name in prompt_and_decoder_names() if name.startswith(_UNUSED))
"""Original names that our decoder has no place for."""


def original_name(ours: str) -> str:
    """Original name of one weight of our decoder.

    Raises:
        KeyError: for a weight that SAM does not have.
    """
    layer = re.search(r"\.transformer\.layers\.(\d+)\.", ours)
    return original_names(int(layer[1]) + 1 if layer else 0)[ours]


def _ours(transformers_name: str) -> str:
    name = transformers_name.replace("prompt_encoder.shared_embedding.", "position_embed.")
    return name.replace("prompt_encoder.mask_embed.", "mask_embed.")
