"""Base class of the reference policies: what the KL term keeps the policy near to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from coprs_lightning.spec import Recorded, class_path

if TYPE_CHECKING:
    from coprs_lightning.policies import Policy


class ReferencePolicy(Recorded, ABC):
    """Gives the policy as it was before training.

    Attributes:
        fingerprint: digest of the reference's weights, set by :meth:`prepare`; ``None`` leaves a resumed run unchecked.
    """

    fingerprint: str | None = None

    def prepare(self, policy: Policy) -> None:
        """Called once before training, with all initial weights in place and before a checkpoint is resumed."""

    def shard(self, divide: Callable[[Policy], None]) -> None:
        """Called after :meth:`prepare` where the policy's weights are divided among processes.

        Args:
            divide: divides a policy's weights likewise.
        """

    @abstractmethod
    def use(self, policy: Policy) -> AbstractContextManager[Policy]:
        """A context in which the yielded policy computes with the initial weights, without gradients."""

    def state(self) -> dict[str, Any]:
        """Plain data that identifies the reference, written into checkpoints."""
        if self.fingerprint is None:
            return {}
        return {"class_path": class_path(type(self)), "fingerprint": self.fingerprint}

    def check_state(self, state: dict[str, Any]) -> None:
        """Refuse to resume with another reference than the run was begun with.

        Args:
            state: what :meth:`state` gave when the checkpoint was written.

        Raises:
            ValueError: when the weights differ.
        """
        if self.fingerprint is not None and state.get("fingerprint") != self.fingerprint:
            raise ValueError(_refusal(type(self).__name__, state, self.fingerprint))


def _refusal(name: str, state: dict[str, Any], found: str) -> str:
    cause = (
        f"by a run whose {str(state.get('class_path')).rpartition('.')[2]} has the fingerprint "
        f"{str(state['fingerprint'])[:12]}"
        if "fingerprint" in state
        else "by a run without such a reference policy"
    )
    return (
        f"the checkpoint was written {cause}, and the {name} of this run has {found[:12]}: the KL term would pull the "
        "policy towards other weights than before. Start from the same model.init_from, model.policy and reference as "
        "that run (with random weights, the same seed_everything too), or begin a new run from the checkpoint: "
        "model.init_from instead of ckpt_path."
    )
