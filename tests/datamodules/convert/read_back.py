"""Reads splits back with tarfile, json and pycocotools alone, independently of the package's reader."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco


def read_split(folder: Path) -> dict[str, dict[str, Any]]:
    """JSON members by key, each with the image's name under ``image`` and its bytes under ``bytes``."""
    samples: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                content = tar.extractfile(member).read()
                sample = samples.setdefault(key, {})
                sample.update(json.loads(content) if extension == "json" else {"image": member.name, "bytes": content})
    return samples


def mask_of(rle: dict[str, Any] | None) -> np.ndarray | None:
    """Decode an RLE to (H, W) bool."""
    return None if rle is None else coco.decode({**rle, "counts": rle["counts"].encode()}) > 0
