from __future__ import annotations

import json
import logging
import shutil

import pytest

from datamodules.collate import Packer
from datamodules.shard_cache import ShardCache
from datamodules.shard_index import ShardError, read_index
from datamodules.shard_loader import ShardLoader
from datamodules.shard_plan import Shuffle, example_table
from datamodules.shard_stream import ShardStream, StreamOptions
from tests.datamodules.build import make_split


def loader(split, *, rank=0, world=1, workers=0, train=True, limit=None, **options):
    lent = {name: options.pop(name) for name in ("start_method", "persistent_workers", "on_resume") if name in options}
    table = example_table([read_index(split)], options.setdefault("unit", "target"), limit)
    shuffle = Shuffle(options.get("seed", 0), options.pop("window", 50), options.pop("together", 1))
    options = {"expression": "first", "max_bad_fraction": 0.0, "batch_size": 3, **options}
    made = StreamOptions(
        rank=rank, world_size=world, num_workers=workers, shuffle=shuffle if train else None, **options
    )
    stream = ShardStream(table, made, ShardCache(None, 10**9, 0), Packer(16))
    return ShardLoader(stream, reshuffle=train, **lent)


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
    assert epoch(loader(split, window=1), 0) != orders[0]


def test_a_single_shard_is_shuffled_anew_each_epoch(tmp_path):
    made = loader(make_split(tmp_path / "s", 12), batch_size=12)
    orders = [epoch(made, number)[0] for number in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize("persistent", [False, True])
def test_the_epoch_reaches_workers(split, persistent):
    made = loader(split, workers=2, persistent_workers=persistent)
    orders = [epoch(made, number) for number in range(2)]
    assert orders[0] != orders[1]
    again = loader(split, workers=2, persistent_workers=not persistent)
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


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2), (3, 1), (4, 0)])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 30])
def test_every_rank_has_as_many_batches_and_every_example_comes_once(uneven, world, workers, batch_size):
    made = [loader(uneven, rank=rank, world=world, workers=workers, batch_size=batch_size) for rank in range(world)]
    ranks = [epoch(each, 2) for each in made]
    assert {len(batches) for batches in ranks} == {len(made[0])}
    seen = [key for batches in ranks for batch in batches for key in batch]
    assert set(seen) == {f"img{number:05d}/0" for number in range(25)}
    repeated = -25 % world if batch_size == 1 else 0  # then the last step has no two for one rank and none for another
    assert len(seen) == 25 + repeated


@pytest.mark.parametrize("workers", [0, 3])
def test_the_order_does_not_depend_on_ranks_and_workers(uneven, workers):
    alone = [key for batch in epoch(loader(uneven, batch_size=6), 1) for key in batch]
    ranks = [epoch(loader(uneven, rank=rank, world=3, workers=workers, batch_size=2), 1) for rank in range(3)]
    steps = [key for step in zip(*ranks, strict=True) for batch in step for key in batch]
    assert steps == alone


def test_the_rest_of_an_epoch_can_be_left_out(uneven):
    ranks = [epoch(loader(uneven, rank=rank, world=2, batch_size=4, drop_last=True), 0) for rank in range(2)]
    assert [[len(batch) for batch in batches] for batches in ranks] == [[4, 4, 4]] * 2
    assert len({key for batches in ranks for batch in batches for key in batch}) == 24


def test_fewer_examples_than_a_batch_still_give_one(tmp_path):
    split = make_split(tmp_path / "s", 2)
    (batch,) = epoch(loader(split, batch_size=5), 0)
    assert set(batch) == {"img00000/0", "img00001/0"}
    # three ranks cannot share two examples without one of them coming twice
    ranks = [flat(loader(split, rank=rank, world=3, batch_size=5)) for rank in range(3)]
    assert [len(seen) for seen in ranks] == [1, 1, 1]
    assert {key for seen in ranks for key in seen} == set(batch)


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
    ranks = [flat(loader(split, rank=rank, world=2, workers=1, train=False, start_method="spawn")) for rank in range(2)]
    assert not set(ranks[0]) & set(ranks[1])
    assert len(ranks[0] + ranks[1]) == 46


def test_limits_take_exactly_so_many(split):
    seen = [flat(loader(split, world=2, rank=rank, train=False, limit=7)) for rank in range(2)]
    assert len(set(seen[0] + seen[1])) == len(seen[0] + seen[1]) == 7
    assert len({key for batch in epoch(loader(split, limit=7, batch_size=21), 0) for key in batch}) == 7


def interrupted(split, done, **options):
    """The batches of a rank up to ``done``, and the state of its loader then."""
    begun = loader(split, **options)
    begun.sampler.set_epoch(3)
    batches = iter(begun)
    seen = [list(next(batches).keys) for _ in range(done)]
    state = json.loads(json.dumps(begun.state_dict()))
    batches.close()
    return seen, state


@pytest.mark.parametrize("workers", [(0, 0), (2, 2), (0, 2), (2, 0), (2, 3)])
@pytest.mark.parametrize("done", [1, 4, 15])
def test_a_resumed_epoch_continues_with_the_next_batch(split, workers, done):
    """46 examples in 16 batches, the last one smaller; also after a change of the number of workers."""
    whole = epoch(loader(split), 3)
    seen, state = interrupted(split, done, workers=workers[0])
    assert seen == whole[:done]
    resumed = loader(split, workers=workers[1])
    resumed.load_state_dict(state)
    assert epoch(resumed, 3) == whole[done:]
    assert epoch(resumed, 3) == whole


def test_a_finished_epoch_is_not_gone_on_with(split):
    whole = epoch(loader(split), 3)
    _, state = interrupted(split, len(whole))
    assert state["examples"] == 46
    resumed = loader(split)
    resumed.load_state_dict(state)
    assert epoch(resumed, 3) == whole


@pytest.mark.parametrize(("before", "now"), [((1, 3), (2, 3)), ((2, 3), (1, 3)), ((2, 2), (3, 4)), ((3, 5), (1, 1))])
def test_another_number_of_ranks_goes_on_at_the_last_shared_position(split, before, now, caplog):
    """(ranks, examples a batch): nothing is repeated and nothing lost."""
    ranks = [interrupted(split, 3, rank=rank, world=before[0], batch_size=before[1]) for rank in range(before[0])]
    seen = [key for batches, _ in ranks for batch in batches for key in batch]
    assert {state["examples"] for _, state in ranks} == {len(seen)}
    lengths, counted = set(), []
    for rank in range(now[0]):
        resumed = loader(split, rank=rank, world=now[0], batch_size=now[1], on_resume=counted.append)
        resumed.load_state_dict(ranks[0][1])
        batches = epoch(resumed, 3)
        lengths.add(len(batches))
        assert counted[-1] + len(batches) == len(resumed)  # what Lightning is told fits the length of the loader
        seen += [key for batch in batches for key in batch]
    assert len(lengths) == 1
    assert len(set(seen)) == 46
    assert len(seen) == 46
    assert f"Resuming epoch 3 after {ranks[0][1]['examples']} of its 46 examples" in caplog.text
    assert f"for {now[0]} rank(s) with {now[1]} examples each (before: {before[0]} with {before[1]})" in caplog.text


def test_a_position_in_other_data_is_not_followed(split, caplog):
    _, state = interrupted(split, 3)
    counted = []
    resumed = loader(split, on_resume=counted.append)
    resumed.identity = {"seed": 5}
    resumed.load_state_dict(state)
    assert counted == [0]
    assert len(epoch(resumed, 3)) == 16
    assert "made with other training data or another order of it (seed changed)" in caplog.text


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
def test_a_bad_sample_is_skipped_counted_and_named(one_broken, tmp_path, caplog, workers, train):
    report = tmp_path / "run" / "unusable.jsonl"
    made = loader(one_broken, max_bad_fraction=0.05, train=train, batch_size=2, workers=workers, report=report)
    with caplog.at_level(logging.WARNING, logger="datamodules.shard_access"):
        seen = flat(made)
    assert not any(key.startswith("img00001/") for key in seen)
    assert made.bad_images == 1
    assert len(seen) == len(set(seen)) == 44
    flat(made)
    assert made.bad_images == 1
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "unusable.jsonl").read_text().splitlines()]
    assert (line["key"], line["epoch"], line["rank"]) == ("img00001", 0, 0)
    assert line["shard"].endswith("00001.tar")
    assert line["reason"].startswith("broken png image")
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


def test_a_batch_of_unusable_images_takes_one_that_follows(tmp_path):
    whole = make_split(tmp_path / "s", 6, num_shards=6)
    broken = break_shards(
        whole, tmp_path / "b", lambda name, content: content.replace(b"\x89PNG", b"XXXX") if name < "00003" else content
    )
    made = loader(broken, batch_size=1, max_bad_fraction=0.9)
    batches = epoch(made, 0)
    assert [len(batch) for batch in batches] == [1] * 6
    assert {key for batch in batches for key in batch} == {f"img{number:05d}/0" for number in (3, 4, 5)}
    assert made.bad_images == 3


def test_a_split_without_usable_samples_does_not_hang(tmp_path):
    whole = make_split(tmp_path / "s", 2, num_shards=1)
    broken = break_shards(whole, tmp_path / "b", lambda name, content: content.replace(b"\x89PNG", b"XXXX"))
    with pytest.raises(ShardError, match="are unusable"):
        list(loader(broken, max_bad_fraction=0.5))
    with pytest.raises(ShardError, match=r"none of the 32 batches .*\(2 unusable ones so far\): nothing to train on"):
        list(loader(broken, max_bad_fraction=1.0))


def test_a_shard_that_changed_under_the_run_stops_it(split, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(split, copy)
    shard = copy / "00002.tar"
    whole = shard.read_bytes()
    made = loader(copy, train=False)
    shard.write_bytes(whole[:3000])
    with pytest.raises(ShardError, match=r"00002\.tar ends at byte 3000, index\.json says 20480: .*truncated"):
        list(made)
    start = whole.index(b"img00012.png")
    shard.write_bytes(whole[:start] + bytes(len(whole) - start))
    with pytest.raises(ShardError, match=r"00002\.tar at byte \d+ is no plain tar file"):
        list(made)
    shard.write_bytes(whole[start:] + whole[:start])
    message = r"00002\.tar at byte \d+.*(do not belong together|cannot be read|no plain tar)"
    with pytest.raises(ShardError, match=message):
        list(made)


def test_an_index_of_other_targets_stops_the_run(split, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(split, copy)
    index = json.loads((copy / "index.json").read_text())
    entry = index["shards"][0]
    entry["samples"]["targets"][0] += 1
    entry["targets"] += 1
    (copy / "index.json").write_text(json.dumps(index))
    with pytest.raises(
        ShardError, match=r"sample 'img00000' has no more than 2 examples \(targets\), its index says more"
    ):
        list(loader(copy, train=False))
