from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from datamodules.shard_index import read_index
from datamodules.shard_plan import Shuffle, example_table
from tests.datamodules.build import make_split


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """20 images of 3 targets with 2 expressions each, in 5 shards of 4."""
    folder = tmp_path_factory.mktemp("data") / "whole"
    return read_index(make_split(folder, 20, targets=3, expressions=2, images_per_shard=4))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """6 images of one target, in 2 shards."""
    return read_index(make_split(tmp_path_factory.mktemp("data") / "small", 6, images_per_shard=3))


def test_a_table_knows_where_every_example_lies(index):
    for unit, each in (("target", 3), ("expression", 6)):
        table = example_table([index], unit)
        assert len(table) == 20 * each == index.examples(unit)
        assert table.num_images == 20
        assert table.example_sample.tolist() == [number // each for number in range(20 * each)]
        assert table.example_question.tolist() == [number % each for number in range(20 * each)]
        for image in range(20):
            shard = table.shards[table.sample_shard[image]]
            content = shard.path.read_bytes()[table.sample_start[image] :][: table.sample_bytes[image]]
            assert content.startswith(f"img{image:05d}.png".encode())
            assert content.count(b"ustar") == 2


def test_shards_of_examples_come_in_order(index):
    table = example_table([index], "target")
    names = [shard.path.name for shard in table.shards_of(np.array([59, 0, 58, 13]))]
    assert names == ["00004.tar", "00000.tar", "00001.tar"]


def test_limits_are_exact_and_spread(index):
    whole = example_table([index], "target")
    for limit in (1, 3, 7, 59):
        limited = example_table([index], "target", limit)
        assert len(limited) == limit
        shards = Counter(limited.sample_shard[limited.example_sample].tolist())
        assert max(shards.values()) <= -(-limit // 5)
        assert limited.num_images == len(set(limited.example_sample.tolist()))
        assert sorted(Shuffle(0, 10).epoch(limited, 0).tolist()) == list(range(limit))
    assert len(example_table([index], "target", 99)) == len(whole)


def test_several_splits(index, small):
    table = example_table([index, small], "target")
    assert table.prefixes == ["whole/", "small/"]
    assert table.starts.tolist() == [0, 60, 66]
    assert example_table([small], "target").prefixes == [""]
    with pytest.raises(ValueError, match=r"need different names, got \['small', 'small'\]"):
        example_table([small, small], "target")


def test_an_epoch_is_a_function_of_seed_and_number(index):
    table = example_table([index], "target")
    orders = [Shuffle(1, 20).epoch(table, number).tolist() for number in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert all(sorted(order) == list(range(60)) for order in orders)
    assert Shuffle(1, 20).epoch(table, 1).tolist() == orders[1]
    assert Shuffle(2, 20).epoch(table, 0).tolist() != orders[0]


@pytest.mark.parametrize(("window", "shards"), [(1, 1), (12, 1), (13, 2), (36, 3), (1000, 5)])
def test_only_shards_of_a_window_are_mixed(index, window, shards):
    table = example_table([index], "target")
    order = table.sample_shard[table.example_sample[Shuffle(0, window).epoch(table, 0)]].tolist()
    first, rest = order[: 12 * shards], order[12 * shards :]
    assert len(set(first)) == shards
    assert not set(first) & set(rest)


@pytest.mark.parametrize("together", [1, 2, 3, 4])
def test_questions_about_an_image_stay_together(index, together):
    table = example_table([index], "target")
    order = Shuffle(0, 1000, together).epoch(table, 0)
    images, questions = table.example_sample[order].tolist(), table.example_question[order].tolist()
    bundles, begun = [], None
    for image, question in zip(images, questions, strict=True):
        if image != begun or question % together == 0:
            bundles.append([])
        bundles[-1].append(question)
        begun = image
    expected = {1: [[0], [1], [2]], 2: [[0, 1], [2]]}.get(together, [[0, 1, 2]])
    assert sorted(bundles) == sorted(expected * 20)
    assert images != sorted(images)


def test_splits_are_interleaved_evenly(index, small):
    table = example_table([index, small], "target")
    order = Shuffle(0, 1000).epoch(table, 0)
    assert sorted(order.tolist()) == list(range(66))
    places = np.flatnonzero(order >= 60)
    assert [place // 11 for place in places.tolist()] == pytest.approx([0, 1, 2, 3, 4, 5], abs=1)
    together = Shuffle(0, 1000, 3).epoch(table, 0)
    images = table.example_sample[together]
    changes = np.count_nonzero(np.diff(images)) + 1
    assert changes == 26  # every image in one piece, in spite of the second split between them


def test_weights_mix_splits_in_other_proportions(index, small):
    table = example_table([index, small], "target")
    shuffle = Shuffle(0, 1000, weights=(1.0, 1.0))
    assert shuffle.counts(table) == [33, 33]
    seen = Counter()
    for epoch in range(4):
        order = shuffle.epoch(table, epoch)
        assert len(order) == 66
        assert np.count_nonzero(order >= 60) == 33
        seen.update(order.tolist())
    # 132 examples of either: the large split came twice and a bit, the small one 22 times, none of them left behind
    assert {seen[number] for number in range(60)} == {2, 3}
    assert {seen[number] for number in range(60, 66)} == {22}
    first = [number for epoch in range(2) for number in shuffle.epoch(table, epoch).tolist() if number < 60]
    assert set(first[:60]) == set(range(60))
