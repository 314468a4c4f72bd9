"""The stream of batches that one loader worker reads: plan → samples → questions → examples → batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from coprs_lightning.structures import Example
from datamodules.buffers import MAX_SLOTS, PrivateBuffers, SharedBuffers
from datamodules.collate import Buffers, PackedBatch, Packer
from datamodules.errors import ShardError
from datamodules.locations import is_remote
from datamodules.records import ImageRecord
from datamodules.shard_access import BadSamples, SampleReader
from datamodules.shard_cache import ShardCache
from datamodules.shard_index import Unit
from datamodules.shard_plan import ExampleTable, Shuffle
from datamodules.shard_reader import (
    BadSample,
    Expression,
    build_example,
    parse_features,
    parse_image,
    parse_record,
    question_at,
)
from datamodules.shard_steps import evaluation_batches, step_sizes, training_batches

_AHEAD = 32
"""Batches for which remote shards are fetched in advance."""


@dataclass(frozen=True)
class StreamOptions:
    """How a split is read.

    Attributes:
        unit: what counts as an example.
        expression: which expression stands for a target.
        batch_size: examples a batch.
        rank: this process; handed in, because a spawned worker cannot ask ``torch.distributed``.
        world_size: number of processes.
        num_workers: loader workers of this process.
        max_bad_fraction: share of the images that may be unusable before the run stops.
        seed: of random expressions and augmentations.
        shuffle: order of training examples; ``None`` in evaluation (everything once, in order).
        drop_last: leave out the rest of an epoch that fills no step.
        augment: changes an example, given a seed of its own; ``None`` for nothing.
        report: see :class:`~datamodules.shard_access.BadSamples`.
    """

    unit: Unit
    expression: Expression
    batch_size: int
    rank: int
    world_size: int
    num_workers: int
    max_bad_fraction: float
    seed: int = 0
    shuffle: Shuffle | None = None
    drop_last: bool = False
    augment: Callable[[Example, str], Example] | None = None
    report: Path | None = None


@dataclass
class _Planned:
    """The examples of a batch that is not read yet, and those to fall back on where none of them can be used."""

    examples: np.ndarray
    following: np.ndarray


@dataclass
class _Opened:
    """A sample of which an example was asked for."""

    prefix: str
    record: ImageRecord
    image: np.ndarray
    features: np.ndarray | None


class ShardStream(IterableDataset):  # type: ignore[type-arg]
    """Dataset of whole batches, read through a webdataset pipeline.

    Args:
        table: the examples.
        options: how to read them.
        cache: opens shards.
        pack: makes a batch of examples.
    """

    def __init__(
        self,
        table: ExampleTable,
        options: StreamOptions,
        cache: ShardCache,
        pack: Packer,
    ) -> None:
        self.table = table
        self.options = options
        self.cache = cache
        self.pack = pack
        # epoch and examples done; in shared memory, so that persistent workers see a new epoch
        self.position = torch.zeros(2, dtype=torch.int64).share_memory_()
        self.busy = torch.zeros(max(1, options.num_workers), MAX_SLOTS, dtype=torch.uint8).share_memory_()
        self._buffers: Buffers | None = None
        self.bad = BadSamples(
            len(table.sample_shard),
            table.num_images,
            rank=options.rank,
            world_size=options.world_size,
            max_fraction=options.max_bad_fraction,
            report=options.report,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_buffers": None}  # each process has its own

    @property
    def epoch_examples(self) -> int:
        """Examples of an epoch over all ranks."""
        shuffle = self.options.shuffle
        return len(self.table) if shuffle is None else sum(shuffle.counts(self.table))

    def sizes(self, done: int) -> np.ndarray:
        """Examples of every training batch after ``done`` examples of the epoch, see :func:`step_sizes`."""
        options = self.options
        left = self.epoch_examples - done
        return step_sizes(left, options.batch_size, options.world_size, drop_last=options.drop_last)

    def batches(self, epoch: int, done: int) -> list[np.ndarray]:
        """This rank's batches of an epoch after ``done`` examples of all ranks."""
        options = self.options
        if options.shuffle is None:
            return evaluation_batches(len(self.table), options.batch_size, options.rank, options.world_size)
        order = options.shuffle.epoch(self.table, epoch)[done:]
        return training_batches(order, self.sizes(done), options.rank)

    def __iter__(self) -> Iterator[PackedBatch]:
        """Start the epoch that ``position`` names, after the examples that it says are done."""
        import webdataset as wds

        epoch, done = (int(value) for value in self.position)
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        batches = self.batches(epoch, done)
        if self._buffers is None or isinstance(self._buffers, SharedBuffers) == (worker is None):
            self._buffers = PrivateBuffers() if worker is None else SharedBuffers(self.busy[worker.id])
        reading = _Reading(self, epoch, self._buffers)
        plan = _Plan(self, batches, first, step)
        try:
            yield from wds.DataPipeline(plan, reading.examples, reading.packed)
        finally:
            reading.reader.close()


class _Plan:
    """A worker's batches of an epoch; remote shards of those ahead are fetched in the background."""

    def __init__(self, stream: ShardStream, batches: list[np.ndarray], first: int, step: int) -> None:
        self.stream = stream
        self.batches = batches
        self.places = range(first, len(batches), step)

    def __call__(self) -> Iterator[_Planned]:
        stream = self.stream
        stream.cache.forget()
        remote = any(is_remote(shard.url) for shard in stream.table.shards)
        for place in self.places:
            if remote:
                stream.cache.prefetch(stream.table.shards_of(np.concatenate(self.batches[place : place + _AHEAD])))
            following = self.batches[place + 1 :] if stream.options.shuffle is not None else []
            yield _Planned(self.batches[place], np.concatenate([*following[:_AHEAD], *self.batches[:1]]))


class _Reading:
    """One worker's way through one epoch."""

    def __init__(self, stream: ShardStream, epoch: int, buffers: Buffers) -> None:
        self.stream = stream
        self.options = stream.options
        self.table = stream.table
        self.epoch = epoch
        self.buffers = buffers
        self.seed = f"{stream.options.seed}/{epoch}"
        self.reader = SampleReader(stream.table, stream.cache)

    def examples(self, plan: Iterable[_Planned]) -> Iterator[list[Example]]:
        """Read and decode every planned batch.

        An image that cannot be used makes its batch smaller; a training batch of which nothing is left takes one of
        the examples that follow, for every rank must have the same number of batches.
        """
        for planned in plan:
            opened: dict[int, _Opened | None] = {}
            made = [example for number in planned.examples if (example := self._example(int(number), opened))]
            if not made and self.options.shuffle is not None:
                following = (self._example(int(number), opened) for number in planned.following)
                made = [next(filter(None, following), None) or self._nothing_left()]
            if made:
                yield made

    def packed(self, batches: Iterable[list[Example]]) -> Iterator[PackedBatch]:
        """Make a batch of each list."""
        for examples in batches:
            yield self.stream.pack(examples, self.buffers)

    def _nothing_left(self) -> Example:
        raise ShardError(
            f"none of the {_AHEAD} batches from here on has a usable image ({self.stream.bad.count} unusable ones so "
            "far): nothing to train on. Convert the split again."
        )

    def _example(self, number: int, opened: dict[int, _Opened | None]) -> Example | None:
        table, options = self.table, self.options
        sample = int(table.example_sample[number])
        try:
            if sample not in opened:
                opened[sample] = None  # stays so where it cannot be opened
                opened[sample] = self._open(sample)
            found = opened[sample]
            if found is None:
                return None
            place, url = int(table.example_question[number]), table.shards[int(table.sample_shard[sample])].url
            unit, expression = options.unit, options.expression
            asked = question_at(
                found.record, place, unit=unit, expression=expression, seed=self.seed, prefix=found.prefix
            )
            if asked is None:
                raise ShardError(
                    f"{url}: sample {found.record.key!r} has no more than {place} examples ({unit}s), its index says "
                    "more: shard and index do not belong together. Convert the split again."
                )
            example = build_example(found.record, found.image, asked, features=found.features, shard=url)
        except BadSample as error:
            self.stream.bad.bad(sample, error, self.epoch)
            return None
        self.stream.bad.good(sample)
        return example if options.augment is None else options.augment(example, f"{self.seed}/{example.key}")

    def _open(self, number: int) -> _Opened:
        sample = self.reader.read(number)
        record = parse_record(sample)
        prefix = self.table.prefixes[int(self.table.sample_split[number])]
        return _Opened(prefix, record, parse_image(sample, record), parse_features(sample))
