"""Mirrors images whose questions do not tell left from right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coprs_lightning.structures import Example
from datamodules.augmentations.base import Augmentation, check_share
from datamodules.augmentations.language import side_word, texts_of


class HorizontalFlip(Augmentation):
    """Mirrors an image with its masks, unless question or reasoning say anything that a mirror makes untrue.

    That is: left and right, compass points, turning, clocks, numbers, ordinals, or something to read, see
    :func:`datamodules.augmentations.language.side_word`. Names of brands are not known, so "the cola can" may be
    mirrored; it still is the cola can.

    Args:
        probability: share of the examples that may be mirrored which are.
    """

    def __init__(self, *, probability: float = 0.5) -> None:
        check_share(self, probability=probability)
        self.probability = probability

    def change(self, example: Example, rng: np.random.Generator) -> Example:
        """The example or its mirror image."""
        if rng.random() >= self.probability or side_word(texts_of(example)) is not None:
            return example
        return replace(
            example,
            image=np.ascontiguousarray(example.image[:, ::-1]),
            mask=np.ascontiguousarray(example.mask[:, ::-1]),
            ignore=None if example.ignore is None else np.ascontiguousarray(example.ignore[:, ::-1]),
            instances=None if example.instances is None else np.ascontiguousarray(example.instances[..., ::-1]),
        )
