from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.shard_index import read_index
from datamodules.shard_plan import Portion, deal_evaluation, deal_training, portions
from tests.datamodules.build import make_split


def shards(*examples):
    return [Portion(Path(f"{number}.tar"), count, count, True) for number, count in enumerate(examples)]


def names(dealt):
    return [[shard.path.stem for shard in slot] for slot in dealt]


def test_training_order_is_a_function_of_seed_and_epoch():
    listed = shards(*[4] * 12)
    first = deal_training(listed, 4, seed=1, epoch=0)
    assert first == deal_training(listed, 4, seed=1, epoch=0)
    assert first != deal_training(listed, 4, seed=1, epoch=1)
    assert first != deal_training(listed, 4, seed=2, epoch=0)
    assert [len(slot) for slot in first] == [3, 3, 3, 3]
    assert sorted(name for slot in names(first) for name in slot) == sorted(shard.path.stem for shard in listed)
    # shards wander: over the epochs slot 0 reads every shard
    seen = {name for epoch in range(20) for name in names(deal_training(listed, 4, 1, epoch))[0]}
    assert len(seen) == 12


def test_uneven_shards_are_balanced():
    dealt = deal_evaluation(shards(100, 10, 10, 40, 40), 2)
    assert sorted(sum(shard.examples for shard in slot) for slot in dealt) == [100, 100]
    assert deal_evaluation(shards(3), 3)[1:] == [[], []]


def test_limits_are_exact_and_spread(tmp_path):
    index = read_index(make_split(tmp_path / "s", 10, targets=2, num_shards=4))
    assert [part.examples for part in portions([index], "target")] == [6, 6, 4, 4]
    assert all(part.whole for part in portions([index], "target", limit=20))
    for limit in (1, 3, 7, 19):
        limited = portions([index], "target", limit=limit)
        assert sum(part.examples for part in limited) == limit
        assert max(part.examples for part in limited) <= -(-limit * 6 // 20) + 1
    assert sum(part.examples for part in portions([index], "target", limit=99)) == 20


def test_several_splits(tmp_path):
    indexes = [read_index(make_split(tmp_path / name, 2)) for name in ("a", "b")]
    assert [part.prefix for part in portions(indexes, "target")] == ["a/", "b/"]
    assert [part.prefix for part in portions(indexes[:1], "target")] == [""]
    with pytest.raises(ValueError, match=r"need different names, got \['a', 'a'\]"):
        portions([indexes[0], indexes[0]], "target")
