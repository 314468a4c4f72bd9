from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules import locations
from datamodules.errors import ShardError
from datamodules.shard_cache import ShardCache, default_cache_folder
from datamodules.shard_index import read_index
from tests.datamodules.build import make_split
from tests.datamodules.http_server import serve

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    monkeypatch.setattr(locations, "_FIRST_WAIT", 0.01)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """8 images in 4 shards."""
    return make_split(tmp_path_factory.mktemp("data") / "split", 8, images_per_shard=2)


@pytest.fixture
def remote(split):
    with serve(split) as (url, trouble):
        yield read_index(url), trouble


def cache(tmp_path, *, size=10**9, retries=3):
    return ShardCache(tmp_path / "cache", size, retries)


def content(made, shard):
    descriptor = made.open(shard)
    try:
        return os.pread(descriptor, 10**9, 0)
    finally:
        os.close(descriptor)


def test_a_shard_is_fetched_once(remote, split, tmp_path):
    index, trouble = remote
    made = cache(tmp_path)
    for _ in range(3):
        for shard in index.shards:
            assert content(made, shard) == (split / shard.url.rpartition("/")[2]).read_bytes()
    again = cache(tmp_path)  # another run on this machine
    assert content(again, index.shards[0])[:9] == b"img00000."
    assert trouble.asked["00000.tar"] == 1
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 4
    assert not list((tmp_path / "cache").glob("*part*"))


def test_local_shards_are_opened_where_they_are(split, tmp_path):
    made = cache(tmp_path)
    assert content(made, read_index(split).shards[1]) == (split / "00001.tar").read_bytes()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("trouble_of", ["refusals", "cuts", "spoils"])
def test_a_flaky_remote_is_tried_again(remote, split, tmp_path, caplog, trouble_of):
    index, trouble = remote
    getattr(trouble, trouble_of)["00002.tar"] = 2
    assert content(cache(tmp_path), index.shards[2]) == (split / "00002.tar").read_bytes()
    assert caplog.text.count("trying again in") == 2
    assert "00002.tar" in caplog.text


def test_waits_grow(monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(locations.random, "random", lambda: 0.5)

    def fail():
        raise OSError("down")

    message = r"it could not be read in 5 attempts; the last one: OSError: down\. .*retries"
    with pytest.raises(ShardError, match=message):
        locations.retried(fail, "it", 4)
    assert waits == pytest.approx([0.01, 0.02, 0.04, 0.08])


@pytest.mark.parametrize(
    ("trouble_of", "message"),
    [
        ("refusals", r"00001\.tar could not be read in 2 attempts; .*503"),
        ("cuts", r"00001\.tar could not be read in 2 attempts"),
        ("spoils", r"00001\.tar could not be read in 2 attempts; .*sha256 of what arrived is"),
    ],
)
def test_a_remote_that_stays_broken_is_an_error(remote, tmp_path, trouble_of, message):
    index, trouble = remote
    getattr(trouble, trouble_of)["00001.tar"] = 99
    with pytest.raises(ShardError, match=message):
        cache(tmp_path, retries=1).open(index.shards[1])
    assert not list((tmp_path / "cache").glob("*.tar"))
    assert not list((tmp_path / "cache").glob("*part*"))


def test_a_missing_shard_is_told_at_once(remote, tmp_path, caplog):
    index, _ = remote
    gone = replace(index.shards[0], url=index.shards[0].url.replace("00000", "00009"))
    with pytest.raises(ShardError, match=r"00009\.tar cannot be read .*so the split was copied in part"):
        cache(tmp_path).open(gone)
    assert "trying again" not in caplog.text


def test_a_missing_local_shard(split, tmp_path):
    gone = replace(read_index(split).shards[0], url=str(tmp_path / "no.tar"))
    with pytest.raises(ShardError, match=r"no\.tar cannot be opened"):
        cache(tmp_path).open(gone)


def test_a_shard_of_another_length_does_not_fill_the_disk(remote, tmp_path):
    index, _ = remote
    shorter = replace(index.shards[0], bytes=512)
    with pytest.raises(ShardError, match=r"\d+ bytes arrived, index\.json says 512"):
        cache(tmp_path, retries=0).open(shorter)


def test_shards_of_the_same_name_are_not_mixed_up(tmp_path):
    """Two datasets with a 00000.tar each."""
    made = cache(tmp_path)
    for name in ("a", "b"):
        make_split(tmp_path / "www" / name, 2 if name == "a" else 3)
    with serve(tmp_path / "www") as (url, _):
        for name in ("a", "b", "a"):
            shard = read_index(f"{url}/{name}").shards[0]
            assert content(made, shard) == (tmp_path / "www" / name / "00000.tar").read_bytes()


def test_the_oldest_make_room(remote, tmp_path):
    index, trouble = remote
    made = cache(tmp_path, size=2 * index.shards[0].bytes)
    for number in (0, 1, 0, 2):
        content(made, index.shards[number])
        time.sleep(0.02)  # the clock of files
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 2
    content(made, index.shards[0])
    assert trouble.asked["00000.tar"] == 1  # used after 1, so it stayed
    content(made, index.shards[1])
    assert trouble.asked["00001.tar"] == 2


def test_an_open_shard_outlives_its_removal(remote, split, tmp_path):
    index, _ = remote
    made = cache(tmp_path, size=1)
    descriptor = made.open(index.shards[0])
    content(made, index.shards[1])
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 1
    assert os.pread(descriptor, 10**9, 0) == (split / "00000.tar").read_bytes()
    os.close(descriptor)


def test_prefetching_in_the_background(remote, tmp_path):
    index, trouble = remote
    made = cache(tmp_path)
    made.prefetch(index.shards[:2])
    made.prefetch(index.shards[:3])
    pickle.dumps(made)  # threads stay behind
    deadline = time.monotonic() + 10
    while len(list((tmp_path / "cache").glob("*.tar"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    content(made, index.shards[0])
    assert trouble.asked == {"index.json": 1, "00000.tar": 1, "00001.tar": 1, "00002.tar": 1}


def test_many_processes_fetch_a_shard_once(split, tmp_path):
    script = (
        "import sys; from pathlib import Path; from datamodules.shard_cache import ShardCache; "
        "from datamodules.shard_index import read_index; "
        "[ShardCache(Path(sys.argv[2]), 10**9, 3).open(shard) for shard in read_index(sys.argv[1]).shards]"
    )
    with serve(split) as (url, trouble):
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        command = [sys.executable, "-c", script, url, str(tmp_path / "cache")]
        running = [subprocess.Popen(command, env=environment) for _ in range(4)]
        assert [process.wait(120) for process in running] == [0] * 4
    assert {name: count for name, count in trouble.asked.items() if name.endswith(".tar")} == {
        f"0000{number}.tar": 1 for number in range(4)
    }


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == ShardCache(None, 1, 0).folder == tmp_path / "coprs_lightning" / "shards"
