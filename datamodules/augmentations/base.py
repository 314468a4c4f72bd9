"""Base class of the augmentations."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from coprs_lightning.spec import Recorded
from coprs_lightning.structures import Example


class Augmentation(Recorded, ABC):
    """Changes a decoded training example so that its question still means the same pixels."""

    @abstractmethod
    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        """A changed example, or the same one; a pure function of both arguments."""
