from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from datamodules.shard_index import read_index
from datamodules.shard_writer import ShardWriter
from tests.datamodules.build import encode_image, make_sample, make_split

ABOUT = {"name": "split", "source": "tests", "licence": "CC0-1.0"}


def test_same_input_same_bytes(tmp_path):
    for name in ("a", "b"):
        make_split(tmp_path / name, 7, num_shards=3, name="same")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["00000.tar", "00001.tar", "00002.tar", "index.json"]
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_image_bytes_are_never_reencoded(tmp_path):
    record, _ = make_sample(0)
    jpeg = encode_image(np.zeros((24, 32, 3), np.uint8), "JPEG") + b"trailing bytes that a re-encoder would lose"
    with ShardWriter(tmp_path / "s", **ABOUT) as shards:
        shards.write(record, jpeg, ".JPEG")
    with tarfile.open(tmp_path / "s" / "00000.tar") as tar:
        assert tar.getnames() == ["img00000.jpg", "img00000.json"]
        assert tar.extractfile("img00000.jpg").read() == jpeg
        assert json.load(tar.extractfile("img00000.json")) == record.to_json()


def test_counts_and_dealing(tmp_path):
    index = read_index(make_split(tmp_path / "dealt", 8, targets=2, expressions=3, num_shards=3, extra={"seed": 1}))
    assert [shard.images for shard in index.shards] == [3, 3, 2]
    assert (index.images, index.examples("target"), index.examples("expression")) == (8, 16, 48)
    assert (index.extra, index.licence) == ({"seed": 1}, "CC0-1.0")
    index.verify()
    filled = read_index(make_split(tmp_path / "filled", 8, images_per_shard=3))
    assert [shard.images for shard in filled.shards] == [3, 3, 2]
    few = read_index(make_split(tmp_path / "few", 2, num_shards=5))
    assert [shard.images for shard in few.shards] == [1, 1]


def test_an_error_leaves_nothing(tmp_path):
    record, image = make_sample(0)
    bad, _ = make_sample(1)
    bad.key = "b.c"
    shards = ShardWriter(tmp_path / "s", **ABOUT)
    with shards:
        shards.write(record, image, "png")
    with pytest.raises(ValueError, match="cannot name"), ShardWriter(tmp_path / "t", **ABOUT) as shards:
        [shards.write(each, image, "png") for each in (record, bad)]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_nothing_is_visible_before_the_end(tmp_path):
    record, image = make_sample(0)
    with ShardWriter(tmp_path / "s", **ABOUT) as shards:
        shards.write(record, image, "png")
        assert not (tmp_path / "s").exists()
    assert (tmp_path / "s" / "index.json").is_file()
    with pytest.raises(RuntimeError, match="outside its with-block"):
        shards.write(record, image, "png")


def test_empty_split(tmp_path):
    with pytest.raises(ValueError, match="no sample was written"), ShardWriter(tmp_path / "s", **ABOUT):
        pass
    assert list(tmp_path.iterdir()) == []


def test_overwriting_is_asked_for(tmp_path):
    make_split(tmp_path / "s", 5, images_per_shard=1)
    with pytest.raises(FileExistsError, match=r"holds 6 file.*overwrite=True"):
        ShardWriter(tmp_path / "s", **ABOUT)
    make_split(tmp_path / "s", 2, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["00000.tar", "index.json"]
    (tmp_path / "s" / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match=r"thesis\.tex.*not overwritten"):
        ShardWriter(tmp_path / "s", **ABOUT, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        ShardWriter(tmp_path / "file", **ABOUT, overwrite=True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images_per_shard": 0}, "images_per_shard must be ≥ 1"),
        ({"num_shards": 0}, "num_shards must be 1…512"),
        ({"num_shards": 513}, "num_shards must be 1…512"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        ShardWriter(tmp_path / "s", **ABOUT, **options)


def test_extra_must_be_plain_data(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        ShardWriter(tmp_path / "s", **ABOUT, extra={"path": tmp_path})


def test_bad_images_name_the_key(tmp_path):
    record, image = make_sample(0)
    deep = tmp_path / "deep.png"
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(deep)
    with ShardWriter(tmp_path / "s", **ABOUT) as shards:
        with pytest.raises(ValueError, match="'img00000': image extension 'gif' is none of jpg, png, webp"):
            shards.write(record, image, "gif")
        with pytest.raises(ValueError, match="'img00000': the image bytes are no readable jpg"):
            shards.write(record, image, "jpg")
        with pytest.raises(ValueError, match="'img00000': the image bytes are no readable png"):
            shards.write(record, b"", "png")
        with pytest.raises(ValueError, match="'img00000': the image is 32 × 24 pixels but the record says 24 × 32"):
            shards.write(record, encode_image(np.zeros((32, 24, 3), np.uint8)), "png")
        with pytest.raises(ValueError, match="'img00000': image mode I;16 has more than 8 bits"):
            shards.write(record, deep.read_bytes(), "png")
        with pytest.raises(ValueError, match="'img00000': feature maps are for all samples of a split or none"):
            shards.write(record, image, "png", features=np.zeros((2, 3, 3)))
        shards.write(record, image, "png")
        with pytest.raises(ValueError, match="'img00000': this key was written already"):
            shards.write(record, image, "png")
        record.key = "a.b"
        with pytest.raises(ValueError, match=r"key 'a\.b' cannot name a sample"):
            shards.write(record, image, "png")


def test_a_record_that_readers_would_refuse(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.shard_file.MAX_JSON", 300)
    record, image = make_sample(0, targets=3)
    with (
        pytest.raises(ValueError, match=r"sample 'img00000': its targets take \d+ bytes as JSON, more than 300"),
        ShardWriter(tmp_path / "s", name="s", source="", licence="") as writer,
    ):
        writer.write(record, image, "png")
    assert not (tmp_path / "s").exists()
