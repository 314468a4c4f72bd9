from __future__ import annotations

import itertools

import numpy as np
import pytest

from datamodules.shard_steps import evaluation_batches, step_sizes, training_batches


@pytest.mark.parametrize(("batch", "world"), itertools.product([1, 2, 3, 7, 16], [1, 2, 3, 5]))
def test_batches_are_equal_in_number_and_hold_everything_once(batch, world):
    for examples in range(1, 120):
        sizes = step_sizes(examples, batch, world)
        assert sizes.shape[1] == world
        assert sizes.min() >= 1
        assert sizes.max() <= batch
        assert (sizes[:-2] == batch).all()
        order = np.random.default_rng(examples).permutation(examples)
        ranks = [training_batches(order, sizes, rank) for rank in range(world)]
        seen = np.concatenate([part for batches in ranks for part in batches])
        assert set(seen.tolist()) == set(range(examples))
        too_few = examples < world or (batch == 1 and examples % world)
        assert len(seen) == (examples if not too_few else -(-examples // world) * world)


def test_a_rest_is_shared_out():
    assert step_sizes(20, 4, 2).tolist() == [[4, 4], [4, 4], [2, 2]]
    assert step_sizes(21, 4, 2).tolist() == [[4, 4], [4, 4], [3, 2]]
    # one example for three ranks: the last two steps share 13
    assert step_sizes(25, 4, 3).tolist() == [[4, 4, 4], [3, 2, 2], [2, 2, 2]]


def test_dropping_the_rest():
    assert step_sizes(21, 4, 2, drop_last=True).tolist() == [[4, 4], [4, 4]]
    assert step_sizes(5, 4, 2, drop_last=True).tolist() == [[3, 2]]


@pytest.mark.parametrize("done", [1, 2, 3, 4])
def test_cutting_the_rest_of_an_epoch_gives_the_same_batches(done):
    for examples, batch, world in ((25, 3, 2), (26, 4, 3), (29, 4, 5), (31, 2, 4)):
        sizes = step_sizes(examples, batch, world)
        left = examples - int(sizes[:done].sum())
        if left > 0:
            assert step_sizes(left, batch, world).tolist() == sizes[done:].tolist()


def test_evaluation_batches_do_not_depend_on_the_ranks():
    whole = [batch.tolist() for batch in evaluation_batches(23, 4, 0, 1)]
    assert [len(batch) for batch in whole] == [4, 4, 4, 4, 4, 3]
    for world in (2, 3, 8):
        ranks = [[batch.tolist() for batch in evaluation_batches(23, 4, rank, world)] for rank in range(world)]
        assert sorted(batch for batches in ranks for batch in batches) == sorted(whole)
        assert [batches[0] for batches in ranks if batches] == whole[:world]
