"""Base class of the objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from coprs_lightning.component import Component
from coprs_lightning.model import CoprsModel
from coprs_lightning.policies import Policy
from coprs_lightning.structures import Completions, RolloutRecord, SegmentationBatch


def _no_backward(loss: Tensor) -> None:
    raise RuntimeError(
        "this objective wants to run a backward pass of its own (micro-batches), but nobody gave it one: pass "
        "TrainingStep(accumulate=…), as CoprsModule does."
    )


@dataclass(frozen=True)
class TrainingStep:
    """Where training stands when a loss is asked for.

    Attributes:
        number: batches trained on so far, Lightning's ``global_step`` (coefficients may switch).
        update: which pass over the same batch this is; above 0 only where ``Objective.updates_per_batch`` is above 1.
        accumulate: runs the backward pass of a part of the loss now, so that its activations are freed; what
            :meth:`Objective.forward` returns is the last part.
    """

    number: int
    update: int = 0
    accumulate: Callable[[Tensor], None] = _no_backward


@dataclass
class ObjectiveOutput:
    """What a training step gives.

    Attributes:
        loss: scalar to minimise; with micro-batches, the part whose backward pass is still to be run.
        logs: scalars to log, by key without the ``train/`` prefix (``loss/dice`` …).
        rollout: what was sampled, for callbacks; ``None`` where nothing was.
    """

    loss: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)
    rollout: RolloutRecord | None = None


class Objective(Component, ABC):
    """Computes the training loss of a batch.

    Attributes:
        updates_per_batch: optimizer steps taken on each batch.

    Args:
        fallback_thought: thought written for examples whose data has none; ``{question}`` is filled in.
        kwargs: see :class:`~coprs_lightning.component.Component`.
    """

    updates_per_batch: int = 1

    @property
    def samples(self) -> bool:
        """Whether training steps sample completions from the policy."""
        return False

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

    def prepare(self, model: CoprsModel) -> None:
        """Called once before training, with all initial weights in place and before a checkpoint is resumed."""

    def shard(self, divide: Callable[[Policy], None]) -> None:
        """Called after :meth:`prepare` where the policy's weights are divided among processes.

        Args:
            divide: divides a policy's weights likewise, for those that the objective keeps itself.
        """

    def checkpoint_state(self) -> dict[str, Any]:
        """Plain data that a resumed run is checked against."""
        return {}

    def check_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Refuse to resume from a checkpoint that does not go with this run.

        Args:
            state: what :meth:`checkpoint_state` gave when the checkpoint was written.
        """

    @abstractmethod
    def forward(self, model: CoprsModel, batch: SegmentationBatch, step: TrainingStep) -> ObjectiveOutput:
        """Training loss of one batch.

        Args:
            model: the parts.
            batch: B examples.
            step: where training stands.
        """
