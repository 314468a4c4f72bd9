"""What a run wrote about itself, as far as it may be given away: no folders, no names of machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import coprs_lightning
from coprs_lightning.checkpoints.parts import SLOTS
from coprs_lightning.checkpoints.run_folder import SPEC_KEY

_PACKAGES = ("torch", "transformers", "timm", "safetensors")
_FROM_RUN = ("start", "end", "status", "seed", "git", "versions", "parameters")
_PRIVATE = ("hostname", "platform", "slurm_job")


def run_metrics(folder: Path) -> dict[str, Any]:
    """Every ``results*.json`` of a run's folder by file name, without paths."""
    found = {}
    for file in sorted(folder.glob("results*.json")):
        content = _json(file)
        if content:
            found[file.name] = {name: value for name, value in content.items() if name != "best_checkpoint"}
    return found


def run_provenance(folder: Path, checkpoint: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """What produced the weights.

    Args:
        folder: of the run.
        checkpoint: the file.
        header: content of the checkpoint.
    """
    logged = [content for file in folder.glob("logs/version_*/provenance.json") if (content := _json(file))]
    fits = sorted((content for content in logged if content.get("stage") == "fit"), key=lambda c: str(c.get("start")))
    run = fits[-1] if fits else {}
    options = header.get(SPEC_KEY, {}).get("init_args", {})
    return {
        **{name: run[name] for name in _FROM_RUN if run.get(name) is not None},
        "machine": {name: value for name, value in run.get("machine", {}).items() if name not in _PRIVATE},
        "data": {split: [_without_folder(one) for one in listed] for split, listed in run.get("data", {}).items()},
        "checkpoint": {"file": checkpoint.name, "global_step": header.get("global_step"), "epoch": header.get("epoch")},
        "training": {name: value for name, value in options.items() if name not in SLOTS and name != "init_from"},
        "exported_with": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of this package and of those that read and write weights."""
    found = {"coprs_lightning": coprs_lightning.__version__}
    for name in _PACKAGES:
        found[name] = metadata.version(name)
    return found


def run_of(checkpoint: Path) -> Path:
    """The run's folder, given one of its checkpoints."""
    for folder in list(checkpoint.resolve().parents)[:3]:
        if (folder / "logs").is_dir() or any(folder.glob("results*.json")):
            return folder
    return checkpoint.parent


def _without_folder(split: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in split.items() if name != "folder"}


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
