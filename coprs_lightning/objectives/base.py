"""Base class of the objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from coprs_lightning.component import Component
from coprs_lightning.model import CoprsModel
from coprs_lightning.structures import SegmentationBatch


@dataclass
class ObjectiveOutput:
    """What a training step gives.

    Attributes:
        loss: scalar to minimise.
        logs: scalars to log, by key without the ``train/`` prefix (``loss/dice`` …).
    """

    loss: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)


class Objective(Component, ABC):
    """Computes the training loss of a batch."""

    @abstractmethod
    def forward(self, model: CoprsModel, batch: SegmentationBatch, step: int) -> ObjectiveOutput:
        """Training loss of one batch.

        Args:
            model: the parts.
            batch: B examples.
            step: optimizer steps done so far (coefficients may switch).
        """
