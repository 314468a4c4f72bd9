"""Memory for batches that is used again once nobody looks at it.

A batch of photos has tens of megabytes. Fresh memory of that size comes from the system page by page, which costs more
than filling it, and shared memory costs still more.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

MAX_SLOTS = 16
"""Buffers that a reader keeps; batches beyond them get memory of their own."""

_ROUND = 1 << 22


def _rounded(size: int) -> int:
    return -(-size // _ROUND) * _ROUND


class PrivateBuffers:
    """Buffers of one process, for batches that stay in it."""

    def __init__(self) -> None:
        self._slots: list[tuple[np.ndarray, StorageWeakRef]] = []

    def take(self, size: int) -> tuple[Tensor, int]:
        """So many bytes, uninitialised, as a tensor whose memory comes again when no tensor is a view of it."""
        place = next((i for i, (_, used) in enumerate(self._slots) if used.expired()), len(self._slots))
        if place == MAX_SLOTS:
            return torch.empty(size, dtype=torch.uint8), -1
        memory = self._slots[place][0] if place < len(self._slots) else None
        if memory is None or memory.size < size:
            memory = np.empty(_rounded(size), dtype=np.uint8)
        tensor = torch.from_numpy(memory)  # a storage of its own each time, which dies with its last view
        self._slots[place : place + 1] = [(memory, StorageWeakRef(tensor.untyped_storage()))]
        return tensor[:size], -1


class SharedBuffers:
    """Buffers of a loader's worker, for batches that go to the main process.

    Args:
        busy: (MAX_SLOTS,) uint8 in shared memory; the main process sets an entry back to 0, see :class:`Lent`.
    """

    def __init__(self, busy: Tensor) -> None:
        self._busy = busy.numpy()
        self._slots: list[Tensor] = []

    def take(self, size: int) -> tuple[Tensor, int]:
        """So many bytes of shared memory, uninitialised, and the number of their slot (-1 for none)."""
        free = np.flatnonzero(self._busy == 0)
        if not len(free):
            return _shared(size), -1
        place = int(free[0])  # the lowest: as few buffers as possible are ever made
        while len(self._slots) <= place:
            self._slots.append(torch.empty(0, dtype=torch.uint8))
        if len(self._slots[place]) < size:
            self._slots[place] = _shared(_rounded(size))
        self._busy[place] = 1
        return self._slots[place][:size], place


class Lent:
    """In the main process: which buffers of which worker are looked at.

    Args:
        busy: (workers, MAX_SLOTS) uint8 in shared memory.
    """

    def __init__(self, busy: Tensor) -> None:
        self._busy = busy.numpy()
        self._lent: list[tuple[StorageWeakRef, int, int]] = []

    def add(self, pixels: Tensor, worker: int, slot: int) -> None:
        """A batch in this slot has come."""
        if slot >= 0:
            self._lent.append((StorageWeakRef(pixels.untyped_storage()), worker, slot))

    def give_back(self) -> None:
        """Tell the workers which buffers nobody looks at any more."""
        kept = []
        for entry in self._lent:
            if entry[0].expired():
                self._busy[entry[1], entry[2]] = 0
            else:
                kept.append(entry)
        self._lent = kept


def _shared(size: int) -> Tensor:
    # as torch's own collation in workers: `share_memory_` would copy what was never written
    return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size))
