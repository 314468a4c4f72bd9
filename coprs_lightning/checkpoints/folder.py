"""The folder that `coprs export` writes: a model as data, for others to load.

``config.yaml`` (what it is built from), ``model.safetensors``, ``policy/`` (processor, tokenizer and configuration of
the policy, in transformers' own format), ``README.md``; ``metrics.json`` and
``provenance.json`` where they are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

import coprs_lightning
from coprs_lightning.checkpoints.parts import SLOTS, build_model, build_parts
from coprs_lightning.checkpoints.tensors import INDEX, WEIGHTS, read_weights, save_weights
from coprs_lightning.checkpoints.weights import load_strictly
from coprs_lightning.importing import check_allowed, from_elsewhere
from coprs_lightning.weightless import without_weights

if TYPE_CHECKING:
    from coprs_lightning.component import Component
    from coprs_lightning.model import CoprsModel

CONFIG = "config.yaml"
FORMAT_KEY = "coprs_format"
FORMAT = 1
KEPT = ("README.md", "metrics.json", "provenance.json", "conversion.json", "leftovers.safetensors")
"""What is copied as it is when an exported folder is exported again."""


@dataclass(frozen=True)
class FolderConfig:
    """Content of ``config.yaml``.

    Attributes:
        parts: a spec for every slot, which loads no weights.
        generation: decoding options.
    """

    parts: dict[str, Any]
    generation: dict[str, Any]


def is_exported(folder: Path) -> bool:
    """Whether a folder was written by `coprs export` (a run's folder has a ``config.yaml`` too)."""
    if any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        return True
    try:
        content = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and FORMAT_KEY in content


def write_folder(model: CoprsModel, generation: dict[str, Any], folder: Path, **options: Any) -> None:
    """Write configuration, weights and assets of a model.

    Args:
        model: any model; its parts tell what they are rebuilt from.
        generation: decoding options.
        folder: an existing, empty folder.
        options: see :func:`~coprs_lightning.checkpoints.tensors.save_weights`.
    """
    parts: dict[str, Component] = model.components()
    for slot, part in parts.items():
        part.save_assets(folder / slot)
    content = {
        FORMAT_KEY: FORMAT,
        "coprs_lightning": coprs_lightning.__version__,
        "model": {slot: part.portable_spec(folder / slot) for slot, part in parts.items()} | {"generation": generation},
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / CONFIG).write_text(text, encoding="utf-8")
    save_weights(model, folder, **options)


def read_config(folder: Path) -> FolderConfig:
    """Read ``config.yaml`` of an exported folder; nothing that it names is imported.

    Raises:
        ValueError: where it is missing, no such configuration, of a newer format, or would load weights from elsewhere.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise ValueError(f"{folder} has no {CONFIG}, so nobody knows what to build. Name a folder of `coprs export`.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file} is no plain YAML ({str(error).splitlines()[0]}). Export the model anew.") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict) or FORMAT_KEY not in content:
        raise ValueError(f"{file} was not written by `coprs export`: it has no {FORMAT_KEY!r} with a 'model'.")
    if content[FORMAT_KEY] != FORMAT:
        raise ValueError(
            f"{file} has {FORMAT_KEY} {content[FORMAT_KEY]!r}, this version reads {FORMAT}. Upgrade coprs_lightning."
        )
    parts = {slot: content["model"].get(slot) for slot in SLOTS}
    for slot, spec in parts.items():
        arguments = (spec.get("init_args") or {}) if isinstance(spec, dict) else {}
        if arguments.get("pretrained") or arguments.get("random_weights") is False:
            raise ValueError(
                f"{file}: {slot} would load weights of its own from elsewhere, beside those of the folder. Set "
                "pretrained: null (random_weights: true for the policy) there, with the sizes of the part."
            )
    return FolderConfig(parts, dict(content["model"].get("generation") or {}))


def read_folder(
    folder: Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> CoprsModel:
    """Load an exported model, strictly; see :meth:`coprs_lightning.model.CoprsModel.from_pretrained`."""
    config = read_config(folder)
    weights = read_weights(folder)
    with from_elsewhere(trusted=trust_remote_code):
        for path in _class_paths(config.parts):
            check_allowed(path)  # before anything is built
        with without_weights():
            model: CoprsModel = build_model(build_parts(config.parts, folder, str(folder / CONFIG)), config.generation)
    load_strictly(model, weights, source=str(folder), device=device, dtype=dtype)
    return model


def _class_paths(content: Any) -> list[str]:
    if isinstance(content, dict):
        own = [str(content["class_path"])] if "class_path" in content else []
        return own + [path for value in content.values() for path in _class_paths(value)]
    return [path for value in content for path in _class_paths(value)] if isinstance(content, list) else []
