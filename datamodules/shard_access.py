"""Reads single samples out of shards by their place in the index, and keeps account of those that cannot be used."""

from __future__ import annotations

import json
import logging
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.errors import ShardError
from datamodules.shard_cache import ShardCache
from datamodules.shard_plan import ExampleTable
from datamodules.shard_reader import BadSample, read_sample

logger = logging.getLogger(__name__)

_MAX_OPEN = 64


class SampleReader:
    """One process's open shards.

    Args:
        table: where samples lie.
        cache: opens shards.
    """

    def __init__(self, table: ExampleTable, cache: ShardCache) -> None:
        self.table = table
        self.cache = cache
        self._open: OrderedDict[int, int] = OrderedDict()

    def read(self, sample: int) -> dict[str, Any]:
        """One sample by its number in the table, see :func:`datamodules.shard_reader.read_samples`.

        Raises:
            ShardError: the shard ends early, or what lies at that place is not one sample.
        """
        table = self.table
        shard, start, size = (int(row[sample]) for row in (table.sample_shard, table.sample_start, table.sample_bytes))
        url = table.shards[shard].url
        content = os.pread(self._descriptor(shard), size, start)
        if len(content) < size:
            raise ShardError(
                f"{url} ends at byte {start + len(content)}, index.json says {table.shards[shard].bytes}: the file is "
                "truncated. Copy or convert it again."
            )
        return read_sample(content, url, start)

    def _descriptor(self, shard: int) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
        else:
            self._open[shard] = self.cache.open(self.table.shards[shard])
            if len(self._open) > _MAX_OPEN:
                os.close(self._open.popitem(last=False)[1])
        return self._open[shard]

    def close(self) -> None:
        """Close all shards."""
        while self._open:
            os.close(self._open.popitem()[1])


class BadSamples:
    """Counts the images of a split that a rank could not use, over all its loader workers; names each once.

    Args:
        num_samples: samples of the split.
        num_images: those of them that are read.
        rank: this process.
        world_size: number of processes.
        max_fraction: share of the images that may be unusable before the run stops.
        report: file that gets a JSON line for every unusable image; ``None`` for none.
    """

    def __init__(
        self,
        num_samples: int,
        num_images: int,
        *,
        rank: int,
        world_size: int,
        max_fraction: float,
        report: Path | None = None,
    ) -> None:
        self.rank = rank
        self.max_fraction = max_fraction
        self.report = report
        # what a rank reads in one epoch, but at least what it has read by now: else a rank that meets more of the
        # split from epoch to epoch would stop in the end, or a rank that sees a part of it never
        self._share = num_images / world_size
        # in shared memory, so that the workers of a rank count together: 0 not looked at, 1 good, 2 bad
        self._shared = torch.zeros(num_samples, dtype=torch.uint8).share_memory_()

    @property
    def _state(self) -> np.ndarray:
        return self._shared.numpy()  # a view, a hundred times as fast to write to as the tensor

    @property
    def count(self) -> int:
        """Unusable images so far."""
        return int((self._state == 2).sum())

    def good(self, image: int) -> None:
        """An example of this image was made."""
        if self._state[image] == 0:
            self._state[image] = 1

    def bad(self, image: int, error: BadSample, epoch: int) -> None:
        """Count and name an image that cannot be used.

        Raises:
            ShardError: there are too many.
        """
        if self._state[image] == 2:
            return
        self._state[image] = 2
        count, seen = self.count, max(self._share, int((self._state > 0).sum()))
        if self.report is not None:
            _append(self.report, error, epoch, self.rank)
        if count > self.max_fraction * seen:
            raise ShardError(
                f"{count} of the {seen:.0f} images of rank {self.rank} are unusable, more than "
                f"max_bad_fraction={self.max_fraction} allows; the last one: {error}. Repair and convert the split "
                "again, or raise data.init_args.max_bad_fraction."
            )
        logger.warning("Skipped %s (bad image %d of %.0f, epoch %d).", error, count, seen, epoch)


def _append(report: Path, error: BadSample, epoch: int, rank: int) -> None:
    line = {"shard": error.shard, "key": error.key, "reason": error.reason, "epoch": epoch, "rank": rank}
    report.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:  # one write of a whole line: processes that append at the same time do not mix theirs
        os.write(descriptor, (json.dumps(line, ensure_ascii=False) + "\n").encode())
    finally:
        os.close(descriptor)
