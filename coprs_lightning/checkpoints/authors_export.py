"""A model of ours in the layout of the paper's released code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coprs_lightning.checkpoints.authors_files import LANGUAGE_MODEL, MODULES, sam_left_over
from coprs_lightning.checkpoints.authors_keys import HEAD, LEFT_OVER, theirs
from coprs_lightning.checkpoints.loading import Opened
from coprs_lightning.checkpoints.tensors import read_file
from coprs_lightning.commands import CommandError
from coprs_lightning.decoders import SamMaskDecoder
from coprs_lightning.heatmap_heads import CrossAttentionHead
from coprs_lightning.policies import HFPolicy

LEFT_OVERS = "leftovers.safetensors"
DTYPES = "dtypes"
"""Where the metadata of the left-over weights tells the types in the original file."""


def write(opened: Opened, folder: Path, *, sam: str | None) -> None:
    """Write ``refseg_modules.pt`` and ``llm_hf/``.

    Args:
        opened: the model.
        folder: an empty folder.
        sam: SAM checkpoint for the weights that our decoder leaves out; not needed for a converted model.

    Raises:
        CommandError: for a model with other parts than theirs, or where SAM's further weights are to be had nowhere.
    """
    model: Any = opened.model
    _check_parts(model)
    further, dtypes = _further(opened.path, sam)
    modules = {f"{HEAD}{name}": value for name, value in model.heatmap_head.state_dict().items()}
    modules |= {theirs(name): value for name, value in model.decoder.state_dict().items()}
    modules = {name: value.to(getattr(torch, dtypes.get(name, ""), value.dtype)) for name, value in modules.items()}
    torch.save({**modules, **further}, folder / MODULES)
    model.policy.lm.save_pretrained(folder / LANGUAGE_MODEL)
    model.policy.processor.save_pretrained(folder / LANGUAGE_MODEL)


def _check_parts(model: Any) -> None:
    wanted = {"policy": HFPolicy, "heatmap_head": CrossAttentionHead, "decoder": SamMaskDecoder}
    for slot, kind in wanted.items():
        part = getattr(model, slot)
        if not isinstance(part, kind):
            raise CommandError(
                f"--format authors: their code has a {kind.__name__} as {slot}, this model a {type(part).__name__}. "
                "Use --format coprs."
            )
    if any(True for _ in model.decoder.project.parameters()):
        raise CommandError(
            f"--format authors: this decoder brings features of {model.decoder.in_channels} channels to "
            f"{model.decoder.hidden_size}; their code has no such layer. Use --format coprs."
        )


def _further(path: Path, sam: str | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Left-over weights and original types: of the converted folder, else the weights of a SAM checkpoint."""
    import json

    from safetensors import safe_open

    kept = path / LEFT_OVERS
    if sam is None and kept.is_file():
        with safe_open(kept, framework="pt") as opened:
            metadata = opened.metadata() or {}
        return read_file(kept), dict(json.loads(metadata.get(DTYPES, "{}")))
    if sam is None:
        raise CommandError(
            f"--format authors: their file holds all of SAM's prompt encoder and mask decoder, of which our decoder "
            f"leaves out {len(LEFT_OVER)} weights. Name the SAM checkpoint that training began with: --sam."
        )
    return sam_left_over(sam), {}
