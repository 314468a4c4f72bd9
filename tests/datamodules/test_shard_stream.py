from __future__ import annotations

import json
import logging
import shutil

import pytest

from datamodules.collate import FrameCollator
from datamodules.shard_index import ShardError, read_index
from datamodules.shard_loader import ShardLoader
from datamodules.shard_plan import portions
from datamodules.shard_stream import ShardStream, StreamOptions
from tests.datamodules.build import make_split

COLLATE = FrameCollator(16)


def loader(split, *, rank=0, world=1, workers=0, train=True, limit=None, start=None, persistent=False, **options):
    unit = options.pop("unit", "target")
    shards = portions([read_index(split)], unit, limit)
    batch = options.setdefault("batch_size", 3)
    batches = max(1, sum(shard.examples for shard in shards) // (batch * world)) if train else None
    options = {"expression": "first", "max_bad_fraction": 0.0, "shuffle_buffer": 50, **options}
    made = StreamOptions(unit=unit, rank=rank, world_size=world, num_workers=workers, batches=batches, **options)
    return ShardLoader(
        ShardStream(shards, made, COLLATE), start_method=start, persistent_workers=persistent, reshuffle=train
    )


def keys(batches):
    return [list(batch.keys) for batch in batches]


def flat(batches):
    return [key for batch in batches for key in batch.keys]


def epoch(made, number):
    made.sampler.set_epoch(number)
    return keys(made)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """23 images in shards of 5, 5, 5, 4 and 4, with 2 targets of 2 expressions each."""
    return make_split(tmp_path_factory.mktemp("data") / "split", 23, targets=2, expressions=2, num_shards=5)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """25 images in shards of 12, 12 and 1."""
    return make_split(tmp_path_factory.mktemp("data") / "uneven", 25, images_per_shard=12)


def test_one_reader_sees_everything_once_an_epoch(split):
    made = loader(split, batch_size=2)
    assert len(made) == 23
    seen = [key for batch in epoch(made, 0) for key in batch]
    assert len(seen) == len(set(seen)) == 46


def test_order_is_a_function_of_seed_and_epoch(split):
    orders = [epoch(loader(split), number) for number in range(3)]
    assert orders[0] != orders[1] != orders[2]
    made = loader(split)
    assert [epoch(made, number) for number in range(3)] == orders
    assert epoch(made, 1) == orders[1]
    assert epoch(loader(split, seed=1), 0) != orders[0]
    assert epoch(loader(split, shuffle_buffer=1), 0) != orders[0]


def test_a_single_shard_is_shuffled_anew_each_epoch(tmp_path):
    made = loader(make_split(tmp_path / "s", 12), batch_size=12)
    orders = [epoch(made, number)[0] for number in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize("persistent", [False, True])
def test_the_epoch_reaches_workers(split, persistent):
    made = loader(split, workers=2, persistent=persistent)
    orders = [epoch(made, number) for number in range(2)]
    assert orders[0] != orders[1]
    again = loader(split, workers=2, persistent=not persistent)
    assert epoch(again, 1) == orders[1]
    assert epoch(again, 0) == orders[0]


def test_random_expressions_change_with_the_epoch(split):
    made = loader(split, expression="random", batch_size=46)
    asked = []
    for number in range(4):
        made.sampler.set_epoch(number)
        (batch,) = made
        asked.append(dict(zip(batch.keys, batch.questions, strict=True)))
    assert asked[0] != asked[1]
    assert len({tuple(found[key] for key in sorted(found)) for found in asked}) == 4


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_training_batches_are_equal_on_uneven_shards(uneven, workers):
    world = 3 if workers < 2 else 1
    counts = []
    for rank in range(world):
        made = loader(uneven, rank=rank, world=world, workers=workers, batch_size=2)
        batches = epoch(made, 0)
        assert [len(batch) for batch in batches] == [2] * len(made)
        counts.append(len(batches))
    assert counts == [25 // (2 * world)] * world


def test_fewer_examples_than_a_batch_still_give_one(tmp_path):
    made = loader(make_split(tmp_path / "s", 2), batch_size=5)
    (batch,) = epoch(made, 0)
    assert len(batch) == 5
    assert set(batch) == {"img00000/0", "img00001/0"}


def test_a_pass_is_finished_before_examples_repeat(uneven):
    """The shuffle buffer (50) is larger than a pass (25): it must not mix passes."""
    (seen,) = epoch(loader(uneven, batch_size=50, world=1), 0)
    assert len(set(seen[:25])) == len(set(seen[25:])) == 25
    assert seen[:25] != seen[25:]


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 0), (2, 2), (3, 2), (7, 0)])
def test_evaluation_sees_every_example_once(split, world, workers):
    for unit, total in (("target", 46), ("expression", 92)):
        seen = []
        for rank in range(world):
            made = loader(split, rank=rank, world=world, workers=workers, train=False, unit=unit, batch_size=4)
            batches = list(made)
            # a rank without a shard says 1: at 0 Lightning would skip its evaluation, and the others wait for ever
            assert max(1, len(batches)) == len(made)
            assert keys(made) == keys(batches)
            seen += flat(batches)
        assert len(seen) == len(set(seen)) == total


def test_spawned_workers_know_their_rank(split):
    """Spawned workers cannot ask torch.distributed; two ranks must still read different shards."""
    ranks = [flat(loader(split, rank=rank, world=2, workers=1, train=False, start="spawn")) for rank in range(2)]
    assert not set(ranks[0]) & set(ranks[1])
    assert len(ranks[0] + ranks[1]) == 46


def test_limits_take_exactly_so_many(split):
    seen = [flat(loader(split, world=2, rank=rank, train=False, limit=7)) for rank in range(2)]
    assert len(set(seen[0] + seen[1])) == len(seen[0] + seen[1]) == 7
    assert len({key for batch in epoch(loader(split, limit=7, batch_size=21), 0) for key in batch}) == 7


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [1, 4, 6])
def test_a_resumed_epoch_continues_with_the_next_batch(split, workers, done):
    whole = epoch(loader(split, workers=workers), 3)
    begun = loader(split, workers=workers)
    begun.sampler.set_epoch(3)
    batches = iter(begun)
    assert [next(batches).keys for _ in range(done)] == whole[:done]
    resumed = loader(split, workers=workers)
    resumed.load_state_dict(json.loads(json.dumps(begun.state_dict())))
    assert epoch(resumed, 3) == whole[done:]
    assert epoch(resumed, 3) == whole


def test_resuming_past_the_first_pass(tmp_path):
    small = make_split(tmp_path / "s", 4, num_shards=2)
    whole = epoch(loader(small, workers=2, batch_size=2, rank=0), 0)
    assert len(whole) == 2
    for done in (1, 2):
        resumed = loader(small, workers=2, batch_size=2)
        resumed.load_state_dict({"epoch": 0, "batches": done})
        assert epoch(resumed, 0) == (whole[done:] if done < 2 else whole)


def break_shards(source, target, change):
    """A copy of a split whose image bytes are changed at places of the same length; sizes stay as the index says."""
    shutil.copytree(source, target)
    for shard in sorted(target.glob("*.tar")):
        shard.write_bytes(change(shard.name, shard.read_bytes()))
    return target


@pytest.fixture
def one_broken(split, tmp_path):
    """The first image of the second shard has no PNG signature."""
    return break_shards(
        split, tmp_path / "broken", lambda name, content: content.replace(b"\x89PNG", b"XXXX", int(name == "00001.tar"))
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("train", [True, False])
def test_a_bad_sample_is_skipped_counted_and_named(one_broken, caplog, workers, train):
    made = loader(one_broken, max_bad_fraction=0.05, train=train, batch_size=2, workers=workers)
    with caplog.at_level(logging.WARNING, logger="datamodules.shard_stream"):
        seen = flat(made)
    assert not any(key.startswith("img00001/") for key in seen)
    assert made.bad_images == 1
    assert len(seen) == (46 if train else 44)
    if not workers:
        assert len(caplog.messages) == 1
        assert "Skipped sample 'img00001' of " in caplog.text
        assert "00001.tar: broken png image" in caplog.text
        assert "(bad image 1 of 23, epoch 0)" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_samples_stop_the_run(one_broken, workers):
    made = loader(one_broken, max_bad_fraction=0.04, train=False, workers=workers)
    with pytest.raises(ShardError, match=r"1 of the 23 images .*unusable.*max_bad_fraction=0\.04.*img00001"):
        list(made)


def test_bad_json_and_bad_masks_are_bad_samples_too(split, tmp_path, caplog):
    def change(name, content):
        return spoil_mask(content) if name == "00001.tar" else content.replace(b'"image_id":"0"', b'"image_xx":"0"')

    def spoil_mask(content):
        start = content.index(b'"counts":"') + len(b'"counts":"')
        return content[:start] + b"~" + content[start + 1 :]

    broken = break_shards(split, tmp_path / "broken", change)
    seen = flat(loader(broken, max_bad_fraction=0.1, train=False))
    assert len(seen) == 46 - 2 - 1  # an image, and one of two targets of another
    assert "'img00000' of" in caplog.text
    assert "field 'image_id' must be str, got nothing" in caplog.text
    assert "target '0': mask counts hold characters outside" in caplog.text


def test_a_shard_without_usable_samples_does_not_hang(tmp_path):
    whole = make_split(tmp_path / "s", 2, num_shards=1)
    broken = break_shards(whole, tmp_path / "b", lambda name, content: content.replace(b"\x89PNG", b"XXXX"))
    with pytest.raises(ShardError, match="are unusable"):
        list(loader(broken, max_bad_fraction=0.5))
    with pytest.raises(ShardError, match=r"all 2 images of .*00000\.tar are unusable: nothing to train on"):
        list(loader(broken, max_bad_fraction=1.0))


def test_a_shard_that_changed_under_the_run_stops_it(split, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(split, copy)
    made = loader(copy, train=False)
    shard = copy / "00002.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:3000])
    with pytest.raises(ShardError, match=r"00002\.tar cannot be read to its end"):
        list(made)
    # zeros at a member boundary look like a proper end of the tar
    start = whole.index(b"img00012.png")
    shard.write_bytes(whole[:start] + bytes(len(whole) - start))
    with pytest.raises(ShardError, match=r"00002\.tar holds 2 images and 4 examples .*its index says 5 and 10"):
        list(made)
