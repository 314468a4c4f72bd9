"""Applies augmentations in a way that can be repeated."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from coprs_lightning.structures import Example
from datamodules.augmentations.base import Augmentation


def augment(augmentations: Sequence[Augmentation], example: Example, seed: str) -> Example:
    """Apply augmentations one after the other; the outcome is a pure function of the arguments."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    for change in augmentations:
        example = change(example, rng)
    return example
