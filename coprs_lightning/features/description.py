"""What feature maps were computed with, so that nobody trains on those of another backbone."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from coprs_lightning.backbones.base import ImageBackbone

WEIGHTS = "weights_sha256"


def weights_fingerprint(backbone: ImageBackbone) -> str:
    """SHA-256 over name, type, shape and bytes of every weight and buffer, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(backbone.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def describe(backbone: ImageBackbone) -> dict[str, Any]:
    """The description that an ``index.json`` keeps under ``features``, as plain data."""
    how = backbone.preprocessing
    return {
        "backbone": backbone.spec,
        WEIGHTS: weights_fingerprint(backbone),
        "image_size": backbone.image_size,
        "out_channels": backbone.out_channels,
        "stride": backbone.stride,
        "mean": list(how.mean),
        "std": list(how.std),
        "padding": how.padding,
        "dtype": "float16",
    }
