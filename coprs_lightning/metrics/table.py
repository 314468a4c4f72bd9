"""What the metrics share: a table with one row of numbers an example, gathered over processes, scored at the end.

A table is exact where a running mean is not: scores are exactly rounded sums over its rows, hence the same to the last
digit whatever the order of the examples and the number of processes, and intervals can be bootstrapped from it. A row
takes tens of bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from coprs_lightning.metrics.answers import Answer
from coprs_lightning.metrics.bootstrap import Bootstrap
from coprs_lightning.metrics.ratio import Ratio


class ExampleMetric(Metric, ABC):
    """A metric that keeps a row of int64 numbers and a name for every example.

    Examples come one at a time, since every image has its own size. Tables are concatenated over processes; a process
    without examples is fine.

    Args:
        width: numbers of a row.
        bootstrap: how to find intervals, logged as ``<score>_low`` and ``<score>_high``; ``None`` for none.
        kwargs: see :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False

    rows: list[Tensor]
    names: list[Tensor]

    def __init__(self, *, width: int, bootstrap: Bootstrap | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width
        self.bootstrap = bootstrap
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.add_state("names", default=[], dist_reduce_fx="cat")
        self._seed_states()

    # -- what variants fill in ---------------------------------------------------------------------------------------

    @abstractmethod
    def take(self, answer: Answer) -> None:
        """Add one example: call :meth:`update` with what this metric needs of the answer."""

    @abstractmethod
    def ratios(self) -> dict[str, Ratio]:
        """The scores by name, from :meth:`table` and :meth:`labels`."""

    # -- states ------------------------------------------------------------------------------------------------------

    def _seed_states(self) -> None:
        # torchmetrics stands in a float vector for a process without data, and int tables cannot be gathered with that
        self.rows.append(torch.zeros(0, self.width + 1, dtype=torch.int64, device=self.device))
        self.names.append(torch.zeros(0, dtype=torch.uint8, device=self.device))
        self._kept: list[tuple[list[int], bytes]] = []

    def reset(self) -> None:
        """Forget all examples."""
        super().reset()
        self._seed_states()

    def keep(self, row: Tensor, name: str = "") -> None:
        """Add a row.

        Args:
            row: (width,) int64.
            name: any text that belongs to it.
        """
        # no tensors yet: each would take a corner of the memory that a full-size mask has just left, and the C library
        # then asks for new memory for the next mask (hundreds of MB within one batch)
        self._kept.append((row.tolist(), name.encode()))

    def _to_states(self) -> None:
        """Move what was kept since the last time to the states, where it can be gathered."""
        if not self._kept:
            return
        rows = [[*row, len(name)] for row, name in self._kept]
        letters = list(b"".join(name for _, name in self._kept))
        self.rows.append(torch.tensor(rows, dtype=torch.int64, device=self.device))
        self.names.append(torch.tensor(letters, dtype=torch.uint8, device=self.device))
        self._kept = []

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """See :meth:`torchmetrics.Metric.sync`, which comes first in every ``compute``."""
        self._to_states()
        super().sync(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`torchmetrics.Metric.forward`, which sets the states aside for a moment."""
        self._to_states()
        return super().forward(*args, **kwargs)

    def table(self) -> np.ndarray:
        """(n, width) int64, the rows of this process, or of all of them inside ``compute``."""
        self._to_states()
        return dim_zero_cat(self.rows)[:, : self.width].cpu().numpy()

    def labels(self) -> list[str]:
        """The n names."""
        self._to_states()
        text, found, start = bytes(dim_zero_cat(self.names).tolist()), [], 0
        for length in dim_zero_cat(self.rows)[:, self.width].tolist():
            found.append(text[start : start + length].decode())
            start += length
        return found

    def compute(self) -> dict[str, Tensor]:
        """Scores over all examples of all processes: float64 scalars on the CPU, see :meth:`ratios`."""
        ratios = self.ratios()
        scores = {name: ratio.value() for name, ratio in ratios.items()}
        if self.bootstrap is not None:
            for name, ratio in ratios.items():
                scores[f"{name}_low"], scores[f"{name}_high"] = self.bootstrap.interval(ratio)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in scores.items()}


def to_bits(values: Sequence[float]) -> Tensor:
    """Float64 numbers as the int64 numbers with the same bits: they travel exactly, also where a device has no float64.

    Args:
        values: n numbers.

    Returns:
        (n,) int64.
    """
    return torch.from_numpy(np.array(values, dtype=np.float64).view(np.int64))


def from_bits(table: np.ndarray) -> np.ndarray:
    """The way back from :func:`to_bits`: int64 of any shape → float64 of the same shape."""
    return np.ascontiguousarray(table).view(np.float64)
