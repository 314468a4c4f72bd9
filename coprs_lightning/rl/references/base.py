"""Base class of the reference policies: what the KL term keeps the policy near to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from coprs_lightning.spec import Recorded

if TYPE_CHECKING:
    from coprs_lightning.policies import Policy


class ReferencePolicy(Recorded, ABC):
    """Gives the policy as it was before training."""

    def prepare(self, policy: Policy) -> None:
        """Called once before training, with all initial weights in place and before a checkpoint is resumed."""

    @abstractmethod
    def use(self, policy: Policy) -> AbstractContextManager[Policy]:
        """A context in which the yielded policy computes with the initial weights, without gradients."""

    def state(self) -> dict[str, Any]:
        """Plain data that identifies the reference, written into checkpoints."""
        return {}

    def check_state(self, state: dict[str, Any]) -> None:
        """Refuse to resume with another reference than the run was begun with.

        Raises:
            ValueError: when ``state`` of the checkpoint differs.
        """
