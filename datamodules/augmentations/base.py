"""Base class of the augmentations."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from coprs_lightning.spec import Recorded
from coprs_lightning.structures import Example


class Augmentation(Recorded, ABC):
    """Changes a decoded training example so that its question still means the same pixels.

    The arrays of an example may be shared with others, so they are never written to.
    """

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        """A changed example, or the same one; a pure function of both arguments.

        Raises:
            ValueError: the example has precomputed features, which would still be those of the unchanged image.
        """
        if example.features is not None:
            raise ValueError(
                f"data.init_args.augmentations: {type(self).__name__} cannot change {example.key!r}, whose features "
                "were computed from the unchanged image. Leave augmentations out, or train without such features."
            )
        return self.change(example, rng)

    @abstractmethod
    def change(self, example: Example, rng: np.random.Generator) -> Example:
        """A changed example without features, or the same one."""


def check_share(owner: Augmentation, **values: float) -> None:
    """Refuse options outside 0 … 1.

    Raises:
        ValueError: naming class, option and value.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{type(owner).__name__}.{name} must be in [0, 1], got {value}.")
