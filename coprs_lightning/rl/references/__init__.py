"""Reference policies: what the KL term keeps the policy near to."""

from coprs_lightning.rl.references.adapters_off import AdaptersOffReference
from coprs_lightning.rl.references.base import ReferencePolicy
from coprs_lightning.rl.references.frozen_copy import FrozenCopyReference

__all__ = ["AdaptersOffReference", "FrozenCopyReference", "ReferencePolicy"]
