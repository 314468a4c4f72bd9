"""What an epoch holds and in which order: a pure function of the splits, the seed and the epoch's number.

Neither ranks nor loader workers have a part in it. So the order is the same on any number of them, and a position in an
epoch is one number.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.shard_index import ShardEntry, ShardIndex, Unit


@dataclass(frozen=True)
class ExampleTable:
    """Every example of one or several splits: where its image lies, and which question about it it is.

    Attributes:
        shards: shards of all splits.
        prefixes: for each split, what is put before its examples' keys.
        sample_shard: (M,) the shard of every image.
        sample_start: (M,) where the image's sample begins in its shard, bytes.
        sample_bytes: (M,) size of the sample.
        sample_split: (M,) the split of every image.
        example_sample: (N,) the image of every example; examples of an image lie together.
        example_question: (N,) number of the question among those about its image.
        starts: first example of every split, and N.
    """

    shards: list[ShardEntry]
    prefixes: list[str]
    sample_shard: np.ndarray
    sample_start: np.ndarray
    sample_bytes: np.ndarray
    sample_split: np.ndarray
    example_sample: np.ndarray
    example_question: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.example_sample)

    @property
    def num_images(self) -> int:
        """Images that have an example here."""
        return int(np.count_nonzero(np.diff(self.example_sample))) + int(len(self) > 0)

    def shards_of(self, examples: np.ndarray) -> list[ShardEntry]:
        """The shards that examples lie in, in the order of their first example."""
        numbers = self.sample_shard[self.example_sample[examples]]
        distinct, first = np.unique(numbers, return_index=True)
        return [self.shards[number] for number in distinct[np.argsort(first)]]


def example_table(indexes: Sequence[ShardIndex], unit: Unit, limit: int | None = None) -> ExampleTable:
    """List the examples of splits.

    Args:
        indexes: the splits; with several, keys get the split's name in front.
        unit: what counts as an example.
        limit: take only so many examples, spread evenly over all shards.

    Raises:
        ValueError: two splits of the same name.
    """
    names = [index.name for index in indexes]
    if len(set(names)) < len(names):
        raise ValueError(f"splits that are read together need different names, got {names}: example keys would clash.")
    shards = [shard for index in indexes for shard in index.shards]
    row = 1 if unit == "target" else 2
    counts = np.concatenate([shard.samples[row] for shard in shards])
    images = np.array([shard.images for shard in shards])
    sample_shard = np.repeat(np.arange(len(shards)), images)
    split_of_shard = np.repeat(np.arange(len(indexes)), [len(index.shards) for index in indexes])
    example_sample = np.repeat(np.arange(len(counts)), counts)
    example_question = np.arange(len(example_sample)) - np.repeat(np.cumsum(counts) - counts, counts)
    if limit is not None and limit < len(example_sample):
        kept = _spread(np.array([shard.examples(unit) for shard in shards]), limit)
        example_sample, example_question = example_sample[kept], example_question[kept]
    split_of_example = split_of_shard[sample_shard[example_sample]]
    return ExampleTable(
        shards=shards,
        prefixes=[f"{name}/" if len(indexes) > 1 else "" for name in names],
        sample_shard=sample_shard,
        sample_start=np.concatenate([np.cumsum(shard.samples[0]) - shard.samples[0] for shard in shards]),
        sample_bytes=np.concatenate([shard.samples[0] for shard in shards]),
        sample_split=split_of_shard[sample_shard],
        example_sample=example_sample,
        example_question=example_question,
        starts=np.searchsorted(split_of_example, np.arange(len(indexes) + 1)),
    )


def _spread(examples: np.ndarray, limit: int) -> np.ndarray:
    """Which examples to take of shards with so many each: the first few of every shard."""
    after = np.cumsum(examples)
    total = int(after[-1])
    take = limit * after // total - limit * (after - examples) // total
    starts = after - examples
    return np.concatenate([np.arange(start, start + count) for start, count in zip(starts, take, strict=True)])


@dataclass(frozen=True)
class Shuffle:
    """How training examples are shuffled.

    Attributes:
        seed: of the order.
        window: shards come in a random order; those that hold so many examples together are mixed with one another.
        together: up to so many questions about one image stay neighbours.
        weights: for each split its share of an epoch, in any scale; ``None`` takes every example once an epoch.
    """

    seed: int
    window: int
    together: int = 1
    weights: tuple[float, ...] | None = None

    def counts(self, table: ExampleTable) -> list[int]:
        """Examples of each split in an epoch; with weights, epochs are as long as all splits together."""
        sizes = np.diff(table.starts)
        if self.weights is None:
            return [int(size) for size in sizes]
        shares = np.array(self.weights) / sum(self.weights)
        return [max(1, round(float(share) * len(table))) for share in shares]

    def epoch(self, table: ExampleTable, epoch: int) -> np.ndarray:
        """The examples of one epoch in order, (N,) numbers of the table.

        A split whose share is larger than itself comes again in a new order; of one whose share is smaller, the next
        epoch goes on where this one stopped. So nothing is left out in the long run.
        """
        orders, places = [], []
        for split, count in enumerate(self.counts(table)):
            order, bundles = self._stretch(table, split, epoch * count, (epoch + 1) * count)
            rng = np.random.default_rng([self.seed, epoch, split])
            # splits are interleaved evenly: an example's place is its share of the way, and a bundle has one place
            _, first, inverse = np.unique(bundles, return_index=True, return_inverse=True)
            places.append(((first + rng.random(len(first))) / count)[inverse])
            orders.append(order)
        if len(orders) == 1:
            return orders[0]
        return np.concatenate(orders)[np.argsort(np.concatenate(places), kind="stable")]

    def _stretch(self, table: ExampleTable, split: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Examples ``start`` … ``stop`` of a split's endless sequence of passes, and the bundle of each."""
        size = int(table.starts[split + 1] - table.starts[split])
        orders, bundles = [], []
        for number in range(start // size, -(-stop // size)):
            order, bundle = self._pass(table, split, number)
            cut = slice(max(0, start - number * size), min(size, stop - number * size))
            orders.append(order[cut])
            bundles.append(bundle[cut] + number * size)
        return np.concatenate(orders), np.concatenate(bundles)

    def _pass(self, table: ExampleTable, split: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """One pass over a split: every example once; and for each the number of its bundle, counted in order."""
        rng = np.random.default_rng([self.seed, split, number, 1])
        begin, end = int(table.starts[split]), int(table.starts[split + 1])
        samples = table.example_sample[begin:end]
        shards = table.sample_shard[samples]
        edges = np.flatnonzero(np.diff(shards, prepend=-1, append=-1))
        pieces = [np.arange(a, b) for a, b in itertools.pairwise(edges)]
        questions = table.example_question[begin:end]
        found: list[np.ndarray] = []
        held: list[np.ndarray] = []
        count = 0
        for place, piece in enumerate(rng.permutation(len(pieces)), start=1):
            held.append(pieces[piece])
            count += len(pieces[piece])
            if count >= self.window or place == len(pieces):
                found.append(_mixed(np.concatenate(held), samples, questions, self.together, rng))
                held, count = [], 0
        order = np.concatenate(found)
        return begin + order, np.cumsum(_opens_bundle(order, samples, questions, self.together)) - 1


def _opens_bundle(order: np.ndarray, samples: np.ndarray, questions: np.ndarray, together: int) -> np.ndarray:
    return (np.diff(samples[order], prepend=-1) != 0) | (questions[order] % together == 0)


def _mixed(
    window: np.ndarray, samples: np.ndarray, questions: np.ndarray, together: int, rng: np.random.Generator
) -> np.ndarray:
    """The examples of a window with their bundles in a random order."""
    bundle = np.cumsum(_opens_bundle(window, samples, questions, together)) - 1
    rank = rng.permutation(bundle[-1] + 1)
    return window[np.argsort(rank[bundle], kind="stable")]
