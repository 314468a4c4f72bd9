"""The reference for LoRA: the trained policy itself with its adapters switched off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from coprs_lightning.rl.references.base import ReferencePolicy
from coprs_lightning.rl.references.fingerprint import fingerprint
from coprs_lightning.rl.references.modes import evaluating

if TYPE_CHECKING:
    from coprs_lightning.policies import Policy


class AdaptersOffReference(ReferencePolicy):
    """Takes no memory: adapters leave the policy's own weights as they were."""

    def prepare(self, policy: Policy) -> None:
        """See :meth:`ReferencePolicy.prepare`.

        Raises:
            ValueError: when the policy has no adapters, or they already change it.
        """
        if policy.adapters is None:
            raise ValueError(
                "AdaptersOffReference needs a policy with adapters: this one's own weights are trained, so the initial "
                "ones are not kept. Set model.policy.init_args.lora to train adapters, or use FrozenCopyReference."
            )
        if not policy.adapters.neutral():
            raise ValueError(
                "the policy starts with trained adapters (of model.init_from, or of an earlier fit), so without them "
                "it is not the policy that training starts from, and the KL term would undo what they learned. Use "
                "FrozenCopyReference, which keeps them."
            )
        added = {id(parameter) for parameter in policy.adapter_parameters()}
        self.fingerprint = fingerprint((name, p) for name, p in policy.named_parameters() if id(p) not in added)

    @contextmanager
    def use(self, policy: Policy) -> Iterator[Policy]:
        """See :meth:`ReferencePolicy.use`."""
        with evaluating(policy), policy.adapters_off(), torch.no_grad():
            yield policy
