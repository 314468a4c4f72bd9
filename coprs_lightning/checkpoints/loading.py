"""One function that loads a trained model from whatever names one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coprs_lightning.checkpoints.parts import SLOTS, build_model, build_parts, written_assets
from coprs_lightning.checkpoints.run_folder import PORTABLE_KEY, SPEC_KEY, find_checkpoint, read_header
from coprs_lightning.checkpoints.weights import load_strictly, without_weights
from coprs_lightning.commands import CommandError

if TYPE_CHECKING:
    from coprs_lightning.model import CoprsModel

_PREFIX = "model."


def load_model(source: str | Path, device: str = "auto") -> CoprsModel:
    """Load a trained model for inference, in eval mode.

    Args:
        source: folder of a run of `coprs fit` (its best checkpoint is taken), or a ``.ckpt`` file.
        device: ``auto`` takes a GPU where there is one; else a torch device.

    Raises:
        CommandError: where there is no model, or the device cannot be used.
    """
    target = choose_device(device)
    path = find_checkpoint(source).path
    header = read_header(path)
    model = rebuild(header, str(path))
    try:
        return model.to(target)
    except (RuntimeError, AssertionError) as error:
        raise CommandError(f"--device {device}: {str(error).splitlines()[0]}") from error


def choose_device(device: str) -> str:
    """``auto`` as a real device: a GPU where there is one."""
    if device != "auto":
        return device
    mps = "mps" if torch.backends.mps.is_available() else "cpu"
    return "cuda" if torch.cuda.is_available() else mps


def rebuild(checkpoint: dict[str, Any], where: str) -> CoprsModel:
    """The model of a Lightning checkpoint; its objective (and a reference policy in it) stays on disk.

    Args:
        checkpoint: the content.
        where: the file, for messages.
    """
    specs = checkpoint[SPEC_KEY]["init_args"]
    saved = checkpoint.get(PORTABLE_KEY)
    if saved is None:  # written before checkpoints held the assets: pretrained parts need their sources
        model = build_model(build_parts(specs, None, where), specs.get("generation") or {})
    else:
        with written_assets(saved["assets"]) as folder, without_weights():
            model = build_model(build_parts(saved["parts"], folder, where), saved["generation"])
        for slot in SLOTS:
            getattr(model, slot).recall(specs[slot]["init_args"])
    weights: dict[str, Tensor] = checkpoint["state_dict"]
    own = {name.removeprefix(_PREFIX): value for name, value in weights.items() if name.startswith(_PREFIX)}
    load_strictly(model, own, source=where)
    return model
