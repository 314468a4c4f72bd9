"""The stream of batches that one loader worker reads: shards → samples → questions → shuffle → examples → batches."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from coprs_lightning.structures import Example, SegmentationBatch
from datamodules.records import ImageRecord
from datamodules.shard_index import ShardError, Unit
from datamodules.shard_plan import Portion, deal_evaluation, deal_training
from datamodules.shard_reader import (
    BadSample,
    Expression,
    Question,
    build_example,
    parse_features,
    parse_image,
    parse_record,
    questions,
    read_samples,
)

logger = logging.getLogger(__name__)


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
        shuffle_buffer: questions held for shuffling (undecoded, so cheap).
        questions_together: training questions about one image that stay neighbours through the shuffle.
        seed: of shard order, shuffle and the choice of expressions.
        batches: batches an epoch on every rank when training, ``None`` in evaluation (everything once, in order).
    """

    unit: Unit
    expression: Expression
    batch_size: int
    rank: int
    world_size: int
    num_workers: int
    max_bad_fraction: float
    shuffle_buffer: int = 1
    questions_together: int = 1
    seed: int = 0
    batches: int | None = None

    @property
    def workers(self) -> int:
        """Readers of this process: its workers, or itself."""
        return max(1, self.num_workers)


@dataclass
class _Asked:
    """A question about a sample that is not decoded yet."""

    sample: dict[str, Any]
    record: ImageRecord
    question: Question


class ShardStream(IterableDataset):  # type: ignore[type-arg]
    """Dataset of whole batches, read through webdataset.

    In training a rank yields exactly ``options.batches`` batches whatever its shards hold: a worker starts over when
    its shards end early and leaves a rest when they are long. In evaluation every example comes once.

    Args:
        shards: all portions of the split; the stream picks those of its rank and worker.
        options: how to read them.
        collate: makes a batch of examples.
    """

    def __init__(
        self,
        shards: list[Portion],
        options: StreamOptions,
        collate: Callable[[list[Example]], SegmentationBatch],
    ) -> None:
        self.shards = shards
        self.options = options
        self.collate = collate
        # in shared memory, so that persistent workers see a new epoch and the main process sees their counts
        self.position = torch.zeros(2, dtype=torch.int64).share_memory_()
        self.bad: Tensor = torch.zeros(options.workers, dtype=torch.int64).share_memory_()

    def deal(self, epoch: int) -> list[list[Portion]]:
        """The portions of each of this rank's workers."""
        options = self.options
        slots = options.world_size * options.workers
        if options.batches is None:
            dealt = deal_evaluation(self.shards, slots)
        else:
            dealt = deal_training(self.shards, slots, options.seed, epoch)
        return dealt[options.rank :: options.world_size]

    def __iter__(self) -> Iterator[SegmentationBatch]:
        """Start the epoch that ``position`` names, after the batches that it says are done."""
        epoch, done = (int(value) for value in self.position)
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        # the loader asks its workers in turn, starting at 0: after `done` batches it is role `done % workers`' turn
        role = (number + done) % self.options.workers
        return _Reading(self, epoch, role, done).batches()


class _Reading:
    """One worker's way through one epoch."""

    def __init__(self, stream: ShardStream, epoch: int, role: int, done: int) -> None:
        self.options = stream.options
        self.collate = stream.collate
        self.epoch = epoch
        self.role = role
        self.done = done
        dealt = stream.deal(epoch)
        self.shards = dealt[role]
        self.rank_images = sum(min(shard.images, shard.examples) for shards in dealt for shard in shards)
        self.bad_keys: set[str] = set()
        self.bad = stream.bad
        self.bad[role] = 0

    def batches(self) -> Iterator[SegmentationBatch]:
        options = self.options
        if options.batches is None:
            yield from self._group(self._pass(0))
            return
        mine = len(range(self.role, options.batches, options.workers))
        before = len(range(self.role, min(self.done, options.batches), options.workers))
        yield from itertools.islice(self._group(self._endless(before * options.batch_size)), mine - before)

    def _group(self, examples: Iterator[Example]) -> Iterator[SegmentationBatch]:
        while group := list(itertools.islice(examples, self.options.batch_size)):
            yield self.collate(group)

    def _endless(self, skip: int) -> Iterator[Example]:
        """Pass after pass over this worker's shards, each example once a pass; ``skip`` leaves out undecoded ones."""
        in_pass = sum(shard.examples for shard in self.shards)
        for number in itertools.count():
            found = 0
            for found, example in enumerate(self._pass(number, skip), start=1):  # noqa: B007 - read below
                yield example
            if not found and not skip:
                names = ", ".join(str(shard.path) for shard in self.shards)
                raise ShardError(f"all {len(self.bad_keys)} images of {names} are unusable: nothing to train on.")
            skip = max(0, skip - in_pass)

    def _pass(self, number: int, skip: int = 0) -> Iterator[Example]:
        """One pass over the shards as a webdataset pipeline."""
        import webdataset as wds

        rng = np.random.default_rng([self.options.seed, self.epoch, number, self.options.rank, self.role])
        shards = self.shards if number == 0 else [self.shards[i] for i in rng.permutation(len(self.shards))]
        stages: list[Any] = [lambda: iter(shards), lambda source: self._ask(source, number)]
        if self.options.batches is not None:
            together = self.options.questions_together
            size = max(1, self.options.shuffle_buffer // together)
            stages.append(lambda asked: _bundles(asked, together))
            stages.append(wds.filters.shuffle(size, initial=size, rng=random.Random(int(rng.integers(2**63)))))
            stages.append(itertools.chain.from_iterable)
        stages += [lambda asked: itertools.islice(asked, skip, None), self._decode]
        return iter(wds.DataPipeline(*stages))

    def _ask(self, shards: Iterable[Portion], number: int) -> Iterator[_Asked]:
        """Read the samples of each shard and expand them into questions."""
        for shard in shards:
            yield from itertools.islice(self._ask_shard(shard, number), shard.examples if not shard.whole else None)

    def _ask_shard(self, shard: Portion, number: int) -> Iterator[_Asked]:
        options = self.options
        images = examples = unread = 0
        for sample in read_samples(shard.path):
            images += 1
            try:
                record = parse_record(sample)
            except BadSample as bad:
                unread += 1
                self._skip(bad)
                continue
            seed = f"{options.seed}/{self.epoch}/{number}"
            asked = questions(record, unit=options.unit, expression=options.expression, seed=seed, prefix=shard.prefix)
            examples += len(asked)
            yield from (_Asked(sample, record, question) for question in asked)
        if images != shard.images or (not unread and examples != shard.examples):
            raise ShardError(
                f"{shard.path} holds {images} images and {examples} examples ({options.unit}s), its index says "
                f"{shard.images} and {shard.examples}: shard and index do not belong together. Convert the split again."
            )

    def _decode(self, source: Iterable[_Asked]) -> Iterator[Example]:
        """Decode image and masks; neighbouring questions about one image share its pixels."""
        last: tuple[dict[str, Any], np.ndarray, np.ndarray | None] | None = None
        for asked in source:
            sample, record = asked.sample, asked.record
            try:
                if last is None or last[0] is not sample:
                    last = (sample, parse_image(sample, record), parse_features(sample))
                yield build_example(record, last[1], asked.question, features=last[2], shard=sample["__url__"])
            except BadSample as bad:
                self._skip(bad)

    def _skip(self, bad: BadSample) -> None:
        """Count and name a bad sample; stop the run when there are too many."""
        name = f"{bad.shard}/{bad.key}"
        if name in self.bad_keys:
            return
        self.bad_keys.add(name)
        self.bad[self.role] = len(self.bad_keys)
        count, fraction = int(self.bad.sum()), self.options.max_bad_fraction
        if count > fraction * self.rank_images:
            raise ShardError(
                f"{count} of the {self.rank_images} images of rank {self.options.rank} are unusable, more than "
                f"max_bad_fraction={fraction} allows; the last one: {bad}. Repair and convert the split again, or "
                "raise data.init_args.max_bad_fraction."
            )
        logger.warning("Skipped %s (bad image %d of %d, epoch %d).", bad, count, self.rank_images, self.epoch)


def _bundles(asked: Iterable[_Asked], most: int) -> Iterator[list[_Asked]]:
    """Up to ``most`` neighbouring questions about the same sample at a time."""
    for _, questions_of_one in itertools.groupby(asked, key=lambda item: id(item.sample)):
        while bundle := list(itertools.islice(questions_of_one, most)):
            yield bundle
