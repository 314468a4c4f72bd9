"""Who reads what: deals the shards of a split out to ranks and loader workers, as a pure function of its arguments."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.shard_index import ShardIndex, Unit


@dataclass(frozen=True)
class Portion:
    """The part of one shard that is read.

    Attributes:
        path: the tar file.
        images: images of the shard.
        examples: examples to take, from its beginning.
        whole: these are all examples of the shard, so that its counts can be checked at its end.
        prefix: put before every example's key.
    """

    path: Path
    images: int
    examples: int
    whole: bool
    prefix: str = ""


def portions(indexes: Sequence[ShardIndex], unit: Unit, limit: int | None = None) -> list[Portion]:
    """The portions of one or several splits.

    Args:
        indexes: the splits; with several, keys get the split's name in front.
        unit: what counts as an example.
        limit: take only so many examples, spread evenly over all shards; shards that give none are left out.

    Raises:
        ValueError: two splits of the same name.
    """
    names = [index.name for index in indexes]
    if len(set(names)) < len(names):
        raise ValueError(f"splits that are read together need different names, got {names}: example keys would clash.")
    listed = [(index, shard) for index in indexes for shard in index.shards]
    total = sum(shard.examples(unit) for _, shard in listed)
    limit = total if limit is None else min(limit, total)
    found, before = [], 0
    for index, shard in listed:
        after = before + shard.examples(unit)
        take = limit * after // total - limit * before // total
        before = after
        if take:
            prefix = f"{index.name}/" if len(indexes) > 1 else ""
            found.append(Portion(shard.path, shard.images, take, take == shard.examples(unit), prefix))
    return found


def deal_training(shards: Sequence[Portion], slots: int, seed: int, epoch: int) -> list[list[Portion]]:
    """Deal shards out in a random order, each to the slot with the fewest examples so far.

    The order depends on ``(seed, epoch)`` alone, so shards wander between ranks from epoch to epoch, and what an
    uneven deal leaves unread in one epoch is read in another.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(shards))
    return _deal((shards[number] for number in order), slots)


def deal_evaluation(shards: Sequence[Portion], slots: int) -> list[list[Portion]]:
    """Deal shards out evenly (largest first) and always the same way; slots may stay empty."""
    return _deal(sorted(shards, key=lambda shard: -shard.examples), slots)


def _deal(shards: Iterable[Portion], slots: int) -> list[list[Portion]]:
    dealt: list[list[Portion]] = [[] for _ in range(slots)]
    loads = [(0, slot) for slot in range(slots)]
    for shard in shards:
        load, slot = heapq.heappop(loads)
        dealt[slot].append(shard)
        heapq.heappush(loads, (load + shard.examples, slot))
    return dealt
