"""The reference for full training: a frozen copy of the policy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from coprs_lightning.rl.references.base import ReferencePolicy
from coprs_lightning.rl.references.fingerprint import fingerprint
from coprs_lightning.sharding.gather import is_sharded, reshard

if TYPE_CHECKING:
    from coprs_lightning.policies import Policy


class FrozenCopyReference(ReferencePolicy):
    """Keeps the initial weights beside the trained ones: no parameters of the model, and not in its checkpoints.

    Args:
        offload: keep them in CPU memory, and on the policy's device only while they are in use.
    """

    def __init__(self, *, offload: bool = False) -> None:
        self.offload = offload
        self._copy: Policy | None = None
        self._kept: dict[str, Tensor] = {}

    def prepare(self, policy: Policy) -> None:
        """See :meth:`ReferencePolicy.prepare`.

        Raises:
            ValueError: for a policy whose weights are divided among processes, unless an earlier copy is too.
        """
        if is_sharded(policy):
            self._take_pieces(policy)
            return
        self._copy = frozen_copy(policy, torch.device("cpu") if self.offload else None)
        self._kept = {name: tensor.data for name, tensor in _tensors(self._copy)} if self.offload else {}
        self.fingerprint = fingerprint(self._copy.named_parameters())

    def shard(self, divide: Callable[[Policy], None]) -> None:
        """See :meth:`ReferencePolicy.shard`.

        Raises:
            ValueError: for a copy that is to be offloaded.
        """
        if self._copy is None or is_sharded(self._copy):
            return
        if self.offload:
            raise ValueError(
                "objective.reference.init_args.offload: true, but the policy is divided among the processes, and its "
                "copy with it: each holds a piece only, which is not moved. Set offload: false."
            )
        divide(self._copy)

    def _take_pieces(self, policy: Policy) -> None:
        """A later fit in the same processes: each takes its own piece of the weights as they are now."""
        if self._copy is None or not is_sharded(self._copy):
            raise ValueError(
                "the policy is divided among the processes already, by an earlier fit that had no FrozenCopyReference: "
                "a copy of it cannot be made any more. Begin a new process with model.init_from."
            )
        reshard(policy)
        with torch.no_grad():
            for kept, current in zip(self._copy.parameters(), policy.parameters(), strict=True):
                kept.copy_(current)
        self.fingerprint = fingerprint(self._copy.named_parameters())

    @contextmanager
    def use(self, policy: Policy) -> Iterator[Policy]:
        """See :meth:`ReferencePolicy.use`.

        Raises:
            RuntimeError: before :meth:`prepare`.
        """
        if self._copy is None:
            raise RuntimeError(
                "FrozenCopyReference has no copy: training would have no reference. Call prepare(policy) before "
                "training, with the initial weights in place."
            )
        if is_sharded(self._copy):
            try:
                with torch.no_grad():
                    yield self._copy
            finally:
                reshard(self._copy)
            return
        try:
            self._follow(self._copy, policy)
            with torch.no_grad():
                yield self._copy
        finally:
            for name, tensor in _tensors(self._copy) if self.offload else ():
                tensor.data = self._kept[name]  # never written to, so nothing has to be copied back

    def _follow(self, reference: Policy, policy: Policy) -> None:
        """Put the copy where the policy is, in the types that it was converted to since."""
        device = policy.device
        like = dict(_tensors(policy))
        for name, tensor in _tensors(reference):
            source = self._kept.get(name, tensor.data)
            if self.offload and device.type == "cuda" and not source.is_pinned():
                # not before: only now is it certain which device the process works on
                source = self._kept[name] = source.pin_memory()
            dtype = like[name].dtype if name in like else source.dtype
            tensor.data = source.to(device, non_blocking=True).to(dtype)
        reference.to(device)  # nothing to move any more, but modules may keep their device


def frozen_copy(policy: Policy, device: torch.device | None) -> Policy:
    """A copy in eval mode and without gradients.

    Args:
        policy: what to copy.
        device: where to; ``None`` leaves every weight where it is.
    """
    memo: dict[int, Any] = {
        # straight to its place, so that a GPU never holds both
        id(p): nn.Parameter(p.detach().to(device or p.device, copy=True), requires_grad=False)
        for p in policy.parameters()
    }
    trainer = getattr(policy, "_trainer", None)
    memo[id(trainer)] = None  # Lightning hands it to modules; it holds the whole run
    twin = copy.deepcopy(policy, memo)
    twin.requires_grad_(False)
    twin.eval()
    return twin if device is None else twin.to(device)


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers, each once."""
    return [*module.named_parameters(), *module.named_buffers()]
