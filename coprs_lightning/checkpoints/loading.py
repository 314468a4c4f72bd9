"""One function that loads a trained model from whatever names one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coprs_lightning.checkpoints.folder import is_exported, read_config, read_folder
from coprs_lightning.checkpoints.hub import fetch, is_hub_id
from coprs_lightning.checkpoints.parts import SLOTS, build_model, build_parts, written_assets
from coprs_lightning.checkpoints.run_folder import PORTABLE_KEY, SPEC_KEY, find_checkpoint, read_weights_of
from coprs_lightning.checkpoints.weights import load_strictly
from coprs_lightning.commands import CommandError
from coprs_lightning.weightless import without_weights

if TYPE_CHECKING:
    from coprs_lightning.model import CoprsModel

_PREFIX = "model."
_HEAVY = ("state_dict", "optimizer_states")


@dataclass(frozen=True)
class Opened:
    """A model and where it was found.

    Attributes:
        model: on the CPU unless asked otherwise, in eval mode.
        path: the checkpoint file or the exported folder.
        kind: how a checkpoint was chosen from a run's folder, see :class:`~.run_folder.Found`.
        generation: decoding options that go with it.
        header: the rest of a checkpoint; empty for an exported folder.
    """

    model: CoprsModel
    path: Path
    kind: str
    generation: dict[str, Any]
    header: dict[str, Any]


def load_model(source: str | Path, device: str = "auto") -> CoprsModel:
    """Load a trained model for inference, in eval mode.

    Args:
        source: folder of a run of `coprs fit` (its best checkpoint is taken), a ``.ckpt`` file, a folder of
            `coprs export`, or the id of one on the Hugging Face hub.
        device: ``auto`` takes a GPU where there is one; else a torch device.

    Raises:
        CommandError: where there is no model, or the device cannot be used.
    """
    return open_model(source, device=choose_device(device)).model


def open_model(source: str | Path, *, prefer: str = "best", device: str = "cpu") -> Opened:
    """As :func:`load_model`, telling where the model was found.

    Args:
        source: see :func:`load_model`.
        prefer: ``best`` or ``last`` checkpoint of a run.
        device: a torch device.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CommandError(f"--device {device}: {str(error).splitlines()[0]}") from error
    folder = exported_folder(source)
    if folder is not None:
        return Opened(read_folder(folder, device=device), folder, "", read_config(folder).generation, {})
    found = find_checkpoint(source, prefer=prefer)
    header = read_weights_of(found.path)
    model = rebuild(header, str(found.path)).to(device)
    generation = header[SPEC_KEY]["init_args"].get("generation") or {}
    return Opened(model, found.path, found.kind, generation, {key: header[key] for key in header if key not in _HEAVY})


def exported_folder(source: str | Path) -> Path | None:
    """The exported folder that a path or hub id means; ``None`` where it means a checkpoint of a run.

    Raises:
        CommandError: for a hub id that the hub does not know.
    """
    path = Path(source)
    if path.is_dir():
        return path if is_exported(path) else None
    return fetch(str(source)) if not path.exists() and is_hub_id(str(source)) else None


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
