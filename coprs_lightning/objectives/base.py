"""Base class of the objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from coprs_lightning.component import Component
from coprs_lightning.model import CoprsModel
from coprs_lightning.structures import Completions, SegmentationBatch


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
    """Computes the training loss of a batch.

    Args:
        fallback_thought: thought written for examples whose data has none; ``{question}`` is filled in.
        kwargs: see :class:`~coprs_lightning.component.Component`.
    """

    def __init__(self, *, fallback_thought: str = "{question}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fallback_thought = fallback_thought

    def written_completions(self, model: CoprsModel, batch: SegmentationBatch) -> Completions:
        """Completions to teach: the written thoughts, or the fallback where there is none."""
        return model.policy.encode_completions(
            [
                (thought or "").strip() or self.fallback_thought.replace("{question}", question)
                for thought, question in zip(batch.reasonings, batch.questions, strict=True)
            ]
        )

    @abstractmethod
    def forward(self, model: CoprsModel, batch: SegmentationBatch, step: int) -> ObjectiveOutput:
        """Training loss of one batch.

        Args:
            model: the parts.
            batch: B examples.
            step: optimizer steps done so far (coefficients may switch).
        """
