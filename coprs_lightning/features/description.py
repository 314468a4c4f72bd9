"""What feature maps were computed with, so that nobody trains on those of another backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from coprs_lightning.backbones.base import ImageBackbone

WEIGHTS = "weights_sha256"
SIZES = ("image_size", "out_channels", "stride")
PIXELS = ("mean", "std", "padding")


def weights_fingerprint(backbone: ImageBackbone) -> str:
    """:func:`state_fingerprint` of a backbone."""
    return state_fingerprint(backbone.state_dict())


def state_fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, type, shape and bytes of every weight and buffer, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pixels_of(backbone: ImageBackbone) -> dict[str, Any]:
    """How a backbone normalises pixels, as plain data."""
    how = backbone.preprocessing
    return {"mean": list(how.mean), "std": list(how.std), "padding": how.padding}


def describe(backbone: ImageBackbone) -> dict[str, Any]:
    """The description that an ``index.json`` keeps under ``features``, as plain data."""
    return {
        "backbone": backbone.spec,
        WEIGHTS: weights_fingerprint(backbone),
        **{name: getattr(backbone, name) for name in SIZES},
        **pixels_of(backbone),
        "dtype": "float16",
        "torch": str(torch.__version__),
    }
