from __future__ import annotations

import json

import pytest

from datamodules.shard_index import ShardError, read_index
from tests.datamodules.build import make_split


@pytest.fixture
def split(tmp_path):
    return make_split(tmp_path / "split", 4, num_shards=2)


def edit(split, change):
    path = split / "index.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        read_index(tmp_path / "nowhere")


def test_folder_without_index_tells_what_is_there(split):
    (split / "index.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no index\.json.*holds 2 item\(s\): 00000\.tar, 00001\.tar"):
        read_index(split)


def test_parent_folder_is_met_with_a_hint(split):
    with pytest.raises(FileNotFoundError, match="Its folders split hold splits"):
        read_index(split.parent)


def test_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="It holds nothing"):
        read_index(tmp_path)


def test_unknown_version(split):
    edit(split, lambda content: content.update(format_version=99))
    with pytest.raises(ShardError, match="format version 99, this release reads 2"):
        read_index(split)
    (split / "index.json").write_text("[]")
    with pytest.raises(ShardError, match="format version None"):
        read_index(split)


def test_broken_json(split):
    (split / "index.json").write_text("{")
    with pytest.raises(ShardError, match="not valid JSON"):
        read_index(split)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("shards"), "KeyError"),
        (lambda content: content.update(shards=[]), "lists no shard"),
        (lambda content: content["shards"][0].update(file="../other.tar"), "'../other.tar' is no shard name"),
        (lambda content: content["shards"][0].update(file="pipe:touch x.tar"), "is no shard name"),
        (lambda content: content["shards"][0].update(images=0), "images must be a positive integer, got 0"),
        (lambda content: content["shards"][0].update(targets="9"), "targets must be a positive integer"),
    ],
)
def test_malformed(split, change, message):
    edit(split, change)
    with pytest.raises(ShardError, match=f"malformed.*{message}"):
        read_index(split)


def test_truncated_and_missing_shards(split):
    shard = split / "00001.tar"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-600])
    with pytest.raises(ShardError, match=rf"00001\.tar has {size - 600} bytes but index\.json says {size}"):
        read_index(split)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"00001\.tar is listed in index\.json but missing"):
        read_index(split)


def test_verify_finds_a_flipped_byte(split):
    index = read_index(split)
    index.verify()
    content = bytearray(index.shards[1].path.read_bytes())
    content[600] ^= 1
    index.shards[1].path.write_bytes(content)
    with pytest.raises(ShardError, match=r"00001\.tar: sha256 is .* but index\.json says"):
        read_index(split).verify()
