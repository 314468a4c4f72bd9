"""Points of a scatter plot in bounded memory; which ones are kept depends on neither their order nor the processes."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Point:
    """One example.

    Attributes:
        key: unique name of the example.
        x: horizontal value.
        y: vertical value.
        kind: kind of question, ``""`` when unknown.
    """

    key: str
    x: float
    y: float
    kind: str = ""


class KeyedSample:
    """At most ``most`` points: those whose keys have the smallest hashes, which is a random sample that never changes.

    An example that comes twice (samplers may repeat some to even processes out) counts once.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._heap: list[tuple[int, str]] = []  # largest hash first
        self._kept: dict[str, Point] = {}

    def add(self, point: Point) -> None:
        """Look at a point."""
        if point.key in self._kept:
            return
        digest = int.from_bytes(hashlib.sha256(point.key.encode("utf-8", "surrogatepass")).digest()[:8], "big")
        self._kept[point.key] = point
        heapq.heappush(self._heap, (-digest, point.key))
        if len(self._heap) > self.most:
            _, dropped = heapq.heappop(self._heap)
            del self._kept[dropped]

    def merge(self, points: Iterable[Point]) -> None:
        """Look at the points that another process kept."""
        for point in points:
            self.add(point)

    def points(self) -> list[Point]:
        """The kept ones, sorted by key."""
        return [self._kept[key] for key in sorted(self._kept)]


class StridedPoints:
    """Points of a sequence of unknown length: every one at first, every second once the room is used up, and so on.

    Args:
        most: how many are kept, at least 2.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.stride = 1
        self.seen = 0
        self._rows: list[tuple[float, Tensor]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def wants(self) -> bool:
        """Whether the next one would be kept; :meth:`add` or :meth:`skip` has to follow."""
        return self.seen % self.stride == 0

    def skip(self) -> None:
        """Count one that is not kept."""
        self.seen += 1

    def add(self, step: int, values: Tensor) -> None:
        """Keep one.

        Args:
            step: its place on the time axis.
            values: any vector, the same size every time; it may stay on its device.
        """
        self._rows.append((float(step), values))
        self.seen += 1
        if len(self._rows) > self.most:
            self._rows = self._rows[::2]
            self.stride *= 2

    def table(self) -> Tensor:
        """(n, 1 + size) float64 on the CPU: step and values of every kept one."""
        if not self._rows:
            return torch.zeros(0, 1, dtype=torch.float64)
        values = torch.stack([row for _, row in self._rows]).double().cpu()
        steps = torch.tensor([step for step, _ in self._rows], dtype=torch.float64)
        return torch.cat([steps[:, None], values], 1)

    def restore(self, table: Tensor, stride: int, seen: int) -> None:
        """Go on from what another one kept."""
        self._rows = [(float(row[0]), row[1:]) for row in table]
        self.stride, self.seen = stride, seen
