"""Names of weights in the paper's released code (``refseg_modules.pt``) and in ours.

Their file holds ``heatmap_head.*``, and SAM's ``prompt_encoder.*`` and ``mask_decoder.*`` by the names of the
``segment_anything`` package. Our decoder keeps of SAM what a mask prompt and a single mask need; the rest is left over.
"""

from __future__ import annotations

from collections.abc import Iterable

from coprs_lightning.decoders.sam_original import UNUSED, original_name
from coprs_lightning.sam_original import prompt_and_decoder_names

HEAD = "heatmap_head."
PREFIXES = (HEAD, "prompt_encoder.", "mask_decoder.")

_ORIGINAL_BY_TRANSFORMERS = {name: original for original, name in prompt_and_decoder_names().items()}

LEFT_OVER = UNUSED
"""Weights of SAM that our decoder has no place for: point prompts, "no mask", further masks, and their scores."""


def theirs(ours: str) -> str:
    """Their name of a weight of our SAM decoder (``mask_embed.…``, ``position_embed.…``, ``mask_decoder.…``)."""
    return original_name(ours)


def from_transformers(name: str) -> str:
    """Their name of a weight of transformers' ``SamModel``; names of other parts than these two stay."""
    return _ORIGINAL_BY_TRANSFORMERS.get(name, name)


def listed(names: Iterable[str], shown: int = 12) -> str:
    """Names for a message, one a line, the first of them."""
    everything = sorted(names)
    more = [f"… and {len(everything) - shown} more"] if len(everything) > shown else []
    return "".join(f"\n  {line}" for line in [*everything[:shown], *more])
