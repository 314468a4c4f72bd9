"""Cuts an epoch's order into batches: the same number on every rank, and every example in exactly one of them."""

from __future__ import annotations

import numpy as np


def step_sizes(examples: int, batch_size: int, world_size: int, *, drop_last: bool = False) -> np.ndarray:
    """Examples of every batch of a training epoch.

    All steps are full but the last, whose rest is shared out among the ranks; where the rest does not give every rank
    one, the last two steps share it.

    Args:
        examples: examples left in the epoch, at least 1.
        batch_size: most examples of a batch.
        world_size: number of ranks.
        drop_last: leave the rest out instead.

    Returns:
        (steps, ranks) int64, none 0. They add up to ``examples``, except that with ``drop_last`` the rest is missing,
        and that where there are too few for every rank (a batch size of 1, or fewer examples than ranks) the ranks that
        would get nothing get one that another has too.
    """
    step = batch_size * world_size
    full, rest = divmod(examples, step)
    if drop_last and full:
        return np.full((full, world_size), batch_size)
    if not rest:
        return np.full((full, world_size), batch_size)
    shared, tail = 1, rest
    if rest < world_size:
        if full and batch_size > 1:
            full, shared, tail = full - 1, 2, step + rest
        else:
            tail = world_size
    batches = shared * world_size
    last = tail // batches + (np.arange(batches) < tail % batches)
    return np.concatenate([np.full((full, world_size), batch_size), last.reshape(shared, world_size)])


def training_batches(order: np.ndarray, sizes: np.ndarray, rank: int) -> list[np.ndarray]:
    """The batches of one rank: every step takes the next examples of the order, rank after rank.

    Args:
        order: the examples left in the epoch.
        sizes: see :func:`step_sizes`.
        rank: whose batches.
    """
    ends = np.cumsum(sizes).reshape(sizes.shape)
    missing = int(ends[-1, -1]) - len(order)
    if missing > 0:
        order = np.concatenate([order, np.resize(order, missing)])
    return [order[end - size : end] for end, size in zip(ends[:, rank], sizes[:, rank], strict=True)]


def evaluation_batches(examples: int, batch_size: int, rank: int, world_size: int) -> list[np.ndarray]:
    """Every example once and in order; batch i is rank ``i mod world_size``'s.

    So what is in a batch depends neither on the number of ranks nor on that of the workers.
    """
    starts = range(rank * batch_size, examples, world_size * batch_size)
    return [np.arange(start, min(start + batch_size, examples)) for start in starts]
