from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from datamodules.records import ImageRecord
from datamodules.rle import decode_mask, encode_mask
from datamodules.shard_index import ShardError
from datamodules.shard_reader import BadSample, expand, parse_sample, question_at, questions, read_samples
from datamodules.shard_writer import ShardWriter
from tests.datamodules.build import encode_image, make_sample, make_split


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample_of(record, image, **members):
    content = {"__key__": record.key, "__url__": "x.tar", "json": json.dumps(record.to_json()).encode(), "png": image}
    return {name: value for name, value in (content | members).items() if value is not None}


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def test_what_is_written_is_read(tmp_path):
    made = [make_sample(number, targets=2) for number in range(3)]
    maps = np.arange(12, dtype=np.float16).reshape(3, 2, 2)
    about = {"name": "s", "source": "t", "licence": "CC0-1.0", "features": {"backbone": "toy"}}
    with ShardWriter(tmp_path / "s", **about) as shards:
        for record, image in made:
            shards.write(record, image, "png", features=maps)
    read = [parse_sample(sample) for sample in read_samples(tmp_path / "s" / "00000.tar")]
    for (record, image, features), (expected, encoded) in zip(read, made, strict=True):
        assert record == expected
        np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(encoded))))
        np.testing.assert_array_equal(features, maps)
        for example, target in zip(expand(record, image, unit="target"), expected.targets, strict=True):
            np.testing.assert_array_equal(example.mask, decode_mask(target.masks[0]))
            assert (example.question, example.reasoning) == (target.expressions[0], target.reasoning)


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["img.pkl", "img.pyd", "img.pickle.gz", "img.pth", "img.py", "img.npy"])
def test_members_that_could_run_are_refused_and_not_run(tmp_path, name):
    _, image = make_sample(0)
    payload = pickle.dumps(Payload(tmp_path / "executed"))
    shard = write_tar(tmp_path / "evil.tar", {"img.png": image, name: payload})
    with pytest.raises(ShardError, match=rf"evil\.tar: member '{name}' is refused"):
        list(read_samples(shard))
    assert not (tmp_path / "executed").exists()
    pickle.loads(payload)  # the payload does work: the refusal is what stopped it
    assert (tmp_path / "executed").exists()


def test_arrays_are_never_unpickled(tmp_path):
    record, image = make_sample(0)
    array = npy(np.array([Payload(tmp_path / "executed")], dtype=object), allow_pickle=True)
    with pytest.raises(BadSample, match=r"bad features\.npy member: object array"):
        parse_sample(sample_of(record, image, **{"features.npy": array}))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad features"),
        (npy(np.zeros((2, 2, 2), np.float32)), "float32 array of shape"),
        (npy(np.zeros((2, 2), np.float16)), r"shape \(2, 2\), expected float16"),
        (npy(np.zeros((2, 2, 2), np.float16))[:-2], "cannot reshape"),
        (npy(np.zeros((2, 2, 2), np.float16)).replace(b"(2, 2, 2)", b"(9,9999,9999)"), "bad features"),
        (b"\x93NUMPY\x03\x00" + bytes(100), "npy version"),
    ],
)
def test_bad_features(content, message):
    record, image = make_sample(0)
    with pytest.raises(BadSample, match=message):
        parse_sample(sample_of(record, image, **{"features.npy": content}))


def test_truncated_and_compressed_shards_are_named(tmp_path):
    shard = make_split(tmp_path / "s", 5) / "00000.tar"
    content = shard.read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[:3000])
    with pytest.raises(ShardError, match=r"cut\.tar cannot be read to its end: ReadError: unexpected end of data"):
        list(read_samples(tmp_path / "cut.tar"))
    (tmp_path / "zipped.tar").write_bytes(gzip.compress(content))
    with pytest.raises(ShardError, match=r"zipped\.tar is no plain tar"):
        list(read_samples(tmp_path / "zipped.tar"))
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(ShardError, match=r"empty\.tar is no plain tar"):
        list(read_samples(tmp_path / "empty.tar"))


def test_duplicate_members_are_an_error(tmp_path):
    _, image = make_sample(0)
    shard = write_tar(tmp_path / "twice.tar", {"a.png": image, "a.PNG": image})
    with pytest.raises(ShardError, match=r"twice\.tar cannot be read.*duplicate"):
        list(read_samples(shard))


def deep_png():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"json": None}, "has no JSON member"),
        ({"json": b"{"}, "bad JSON member"),
        ({"json": b"\xff\xfe\xfa"}, "bad JSON member"),
        ({"json": b"[" * 100_000}, "bad JSON member"),
        ({"json": b"[]"}, "bad JSON member.*expected a JSON object"),
        ({"png": None}, r"needs one image member \(jpg, png, webp\), has 0"),
        ({"jpg": b"x"}, "has 2"),
        ({"png": b"not an image"}, "broken png image"),
        ({"png": make_sample(0)[1][:-40]}, "broken png image"),
        ({"png": encode_image(np.zeros((24, 32, 3), np.uint8), "JPEG")}, "broken png image"),
        ({"png": encode_image(np.zeros((9, 9, 3), np.uint8))}, "image is 9 × 9 pixels, the record says 24 × 32"),
        ({"png": deep_png()}, "more than 8 bits"),
    ],
)
def test_bad_samples_name_key_shard_and_reason(members, message):
    record, image = make_sample(0)
    with pytest.raises(BadSample, match=rf"sample 'img00000' of x\.tar: .*{message}") as caught:
        parse_sample(sample_of(record, image, **members))
    assert (caught.value.key, caught.value.shard) == ("img00000", "x.tar")


def test_bad_mask_is_a_bad_sample():
    record, image = make_sample(0)
    record.targets[0].masks[0]["counts"] = "0"
    read, pixels, _ = parse_sample(sample_of(record, image))
    with pytest.raises(BadSample, match="target '0': mask counts add up to 0 pixels"):
        expand(read, pixels, unit="target")


def test_grey_palette_and_cmyk_images_become_rgb():
    record, _ = make_sample(0)
    for mode, name, member in (
        ("L", "PNG", "png"),
        ("P", "PNG", "png"),
        ("RGBA", "WEBP", "webp"),
        ("CMYK", "JPEG", "jpg"),
    ):
        buffer = io.BytesIO()
        Image.new(mode, (32, 24)).save(buffer, name)
        _, image, _ = parse_sample(sample_of(record, None, **{member: buffer.getvalue()}))
        assert (image.shape, image.dtype) == ((24, 32, 3), np.uint8)


def test_exif_rotation_is_not_applied():
    record, _ = make_sample(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24)).save(buffer, "JPEG", exif=exif)
    _, image, _ = parse_sample(sample_of(record, None, jpg=buffer.getvalue()))
    assert image.shape == (24, 32, 3)


def test_units_and_choices():
    record, _ = make_sample(0, targets=2, expressions=3)
    assert [q.key for q in questions(record, unit="target")] == ["img00000/0", "img00000/1"]
    every = questions(record, unit="expression", prefix="val/")
    assert [q.key for q in every] == [f"val/img00000/{target}/{place}" for target in range(2) for place in range(3)]
    assert [q[:2] for q in every] == [(target, place) for target in range(2) for place in range(3)]
    drawn = [questions(record, unit="target", expression="random", seed=str(seed)) for seed in range(30)]
    assert {asked[0].expression for asked in drawn} == {0, 1, 2}
    assert drawn[3] == questions(record, unit="target", expression="random", seed="3")


def test_several_instances_none_and_ignore():
    record, image = make_sample(0)
    left, right = np.zeros((24, 32), bool), np.zeros((24, 32), bool)
    left[:, :4], right[:, 20:] = True, True
    target = record.targets[0]
    target.masks, target.ignore = [encode_mask(left), encode_mask(right)], encode_mask(right)
    _, pixels, _ = parse_sample(sample_of(record, image))
    (example,) = expand(record, pixels, unit="target")
    np.testing.assert_array_equal(example.mask, left | right)
    np.testing.assert_array_equal(example.ignore, right)
    np.testing.assert_array_equal(example.instances, [left, right])
    target.masks, target.ignore = [encode_mask(left), encode_mask(np.zeros_like(left))], None
    (example,) = expand(ImageRecord(**vars(record)), pixels, unit="target")
    np.testing.assert_array_equal(example.mask, left)
    assert example.instances is None  # one object and nothing
    target.masks = []
    (example,) = expand(ImageRecord(**vars(record)), pixels, unit="target")
    assert not example.mask.any()
    assert example.instances is None
    assert example.ignore is None


@pytest.mark.parametrize("unit", ["target", "expression"])
@pytest.mark.parametrize("expression", ["first", "random"])
def test_one_question_is_that_of_all(unit, expression):
    record, _ = make_sample(3, targets=4, expressions=3)
    options = {"unit": unit, "expression": expression, "seed": "7/2", "prefix": "a/"}
    every = questions(record, **options)
    assert [question_at(record, place, **options) for place in range(len(every))] == every
    assert question_at(record, len(every), **options) is None
