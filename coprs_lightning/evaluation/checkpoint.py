"""Which weights were evaluated: path, checksum, step, and the code that ran."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from callbacks.provenance import git_revision, package_versions
from coprs_lightning.checkpoints.folder import CONFIG
from coprs_lightning.checkpoints.loading import Opened
from coprs_lightning.checkpoints.records import run_of, run_provenance
from coprs_lightning.checkpoints.sharded import INDEX, REST, is_sharded_checkpoint


def checksum(path: Path) -> str:
    """The sha256 of a checkpoint file; of a folder that of its ``sha256sum``.

    In an exported folder of ``config.yaml *.safetensors``, in a sharded checkpoint of ``.metadata *.distcp meta.pt``.
    """
    if path.is_file():
        return _file_sum(path)
    files = [path / CONFIG, *sorted(path.glob("*.safetensors"))]
    if is_sharded_checkpoint(path):
        files = [path / INDEX, *sorted(path.glob("*.distcp")), path / REST]
    lines = "".join(f"{_file_sum(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def describe(opened: Opened, sha256: str) -> dict[str, Any]:
    """What ``results.json`` says about the checkpoint."""
    return {
        "path": str(opened.path),
        "file": opened.path.name,
        "kind": opened.kind,
        "sha256": sha256,
        "global_step": opened.header.get("global_step"),
        "epoch": opened.header.get("epoch"),
    }


def provenance(opened: Opened) -> dict[str, Any]:
    """Versions and revision of the code that evaluates, and what is recorded about the training."""
    trained = run_provenance(run_of(opened.path), opened.path, opened.header) if opened.header else None
    return {"versions": package_versions(), "git": git_revision(), "training": trained}


def _file_sum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
