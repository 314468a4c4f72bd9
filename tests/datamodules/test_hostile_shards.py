"""Shards come from elsewhere: whatever they hold, reading ends in a refusal that names it, and nothing else happens."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.datamodules.build import make_split
from tests.datamodules.hostile import (
    compressed,
    good,
    member,
    npy,
    pax,
    read_all,
    sample,
    with_little_memory,
    write_split,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited by what Linux tells")

IMG = good()


class Payload:
    """Creates a folder when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def refused(folder: Path, name: str, *others: str) -> None:
    """Both ways of reading refuse a split and name what is wrong; nothing was written anywhere."""
    root = folder.parent
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    found = read_all(folder)
    for way, told in found.items():
        assert told.startswith("refused: "), f"{way}: {told[:300]}"
        assert name in told, f"{way}: {told[:600]}"
        assert any(other in told for other in others or ("",)), f"{way}: {told[:600]}"
        assert "\x1b" not in told
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_good_split_is_read_by_the_same_process(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "s", sample(IMG), sample(good(1), "img00001"))
    assert read_all(folder) == {"training": "2 examples", "verify": "2 images"}


@pytest.mark.parametrize(
    "key", ["../evil", "../../evil", "/tmp/evil", "a/../../evil", "a/b", "..", "evil\\..\\x", "~/evil", "C:\\evil"]
)
def test_names_that_lead_outside(tmp_path: Path, key: str) -> None:
    told = key.rpartition("/")[2].partition(".")[0].partition("\\")[0]
    refused(write_split(tmp_path / "s", sample(IMG, key)), told or "00000.tar")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (tarfile.SYMTYPE, "symlink"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "character device"),
        (tarfile.BLKTYPE, "block device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.DIRTYPE, "folder"),
        (tarfile.CONTTYPE, "contiguous file"),
        (b"Z", "unknown kind"),
    ],
)
def test_members_that_are_no_files(tmp_path: Path, kind: bytes, name: str) -> None:
    (tmp_path / "secret.json").write_bytes(IMG["json"])
    target = {"linkname": str(tmp_path / "secret.json")} if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else {}
    odd = member("img00000.json", type=kind, **target)
    refused(write_split(tmp_path / "s", member("img00000.png", IMG["png"]) + odd), "00000")


@pytest.mark.parametrize(
    "name", ["pkl", "pickle", "pyd", "pth", "pt", "py", "sh", "so", "npy", "npz", "pickle.gz", "cbor"]
)
def test_members_that_could_run(tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    torch.save(Payload(tmp_path / "executed"), buffer)
    for number, payload in enumerate((pickle.dumps(Payload(tmp_path / "executed")), buffer.getvalue())):
        refused(
            write_split(tmp_path / f"s{number}", sample({**IMG, name: payload})), f"member 'img00000.{name}' is refused"
        )
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["__key__", "__url__", "__local_path__", "__import__('os').system('id')", "", " json"])
def test_names_that_mean_something_to_the_reader(tmp_path: Path, name: str) -> None:
    refused(write_split(tmp_path / "s", sample({**IMG, name: b"x"})), name)


def test_control_characters_in_names_are_not_printed(tmp_path: Path) -> None:
    refused(write_split(tmp_path / "s", sample({**IMG, "\x1b[2Jpkl": b"x"})), "[2Jpkl")
    refused(write_split(tmp_path / "t", sample(IMG, "img\x1b[2J")), "[2J")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed_shards(tmp_path: Path, kind: str) -> None:
    refused(write_split(tmp_path / "s", compressed(bytes(10_000_000), kind), end=b""), "00000.tar", "no plain tar")


def _size(header: bytes, field: bytes) -> bytes:
    """A header that claims another size."""
    changed = header[:124] + field + header[136:148] + b" " * 8 + header[156:]
    return changed[:148] + b"%06o\0 " % sum(changed[:512]) + changed[156:]


@pytest.mark.parametrize(
    "field",
    [
        b"77777777777\0",
        b"\x80" + (10**18).to_bytes(11, "big"),
        b"\xff" + (2**88 - 512).to_bytes(11, "big"),  # a negative number
        b"99999999999\0",
        b"-0000000512\0",
        b"0x000000200\0",
    ],
)
def test_sizes_that_are_not_there(tmp_path: Path, field: bytes) -> None:
    lie = _size(member("img00000.png", IMG["png"]), field)
    refused(write_split(tmp_path / "s", lie + member("img00000.json", IMG["json"])), "00000.tar")


@pytest.mark.parametrize("second", ["img00000.png", "img00000.PNG"])
def test_members_twice(tmp_path: Path, second: str) -> None:
    refused(write_split(tmp_path / "s", sample(IMG) + member(second, IMG["png"])), "00000.tar")


def test_two_samples_where_the_index_says_one(tmp_path: Path) -> None:
    refused(write_split(tmp_path / "s", sample(IMG) + sample(IMG, "img00001")), "at byte 0: 2 samples")


@pytest.mark.parametrize(
    "content",
    [
        lambda: b"[" + b"[]," * 16_000_000 + b"[]]",  # 48 MB of text, 1 GB of lists
        lambda: b"[" * 1_000_000,
        lambda: b'{"a":' * 500_000,
        lambda: b'{"height":' + b"9" * 5_000_000 + b"}",
        lambda: b"\xff\xfe" + b"[\0" * 1000,
        lambda: b"NaN",
        lambda: b"",
    ],
    ids=["wide", "deep lists", "deep objects", "long number", "UTF-16", "NaN", "empty"],
)
def test_json_bombs(tmp_path: Path, content: Callable[[], bytes]) -> None:
    refused(write_split(tmp_path / "s", sample({**IMG, "json": content()})), "img00000", "JSON")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + b"".join(chunks) + _chunk(b"IEND", b"")


def test_image_bombs(tmp_path: Path) -> None:
    zeros = zlib.compress(bytes(100_000_000), 9)
    large = _png(30_000, 30_000, _chunk(b"IDAT", zeros))
    refused(write_split(tmp_path / "a", sample({**IMG, "png": large})), "img00000", "900000000 pixels", "30000 × 30000")
    text = _png(32, 24, *(_chunk(b"zTXt", b"k\0\0" + zeros) for _ in range(8)), _chunk(b"IDAT", zeros))
    refused(write_split(tmp_path / "b", sample({**IMG, "png": text})), "img00000", "broken png")
    profile = _png(32, 24, _chunk(b"iCCP", b"k\0\0" + zeros), _chunk(b"IDAT", b""))
    refused(write_split(tmp_path / "c", sample({**IMG, "png": profile})), "img00000", "broken png")


def test_a_record_that_claims_the_bombs_size(tmp_path: Path) -> None:
    record = {**json.loads(IMG["json"]), "height": 30_000, "width": 30_000}
    members = {"png": _png(30_000, 30_000), "json": json.dumps(record).encode()}
    refused(write_split(tmp_path / "s", sample(members)), "img00000", "100000000 pixels")


def test_a_jpeg_that_claims_a_large_frame(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24)).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    place = jpeg.index(b"\xff\xc0") + 5
    huge = jpeg[:place] + b"\xff\xdc\xff\xdc" + jpeg[place + 4 :]
    folder = write_split(tmp_path / "s", sample({"jpg": huge, "json": IMG["json"]}))
    refused(folder, "img00000", "4290250000 pixels", "65500 × 65500")
    second = jpeg[:2] + jpeg[place - 5 : place + 12] + huge[2:]  # a small frame's header first, then a large one's
    refused(write_split(tmp_path / "t", sample({"jpg": second, "json": IMG["json"]})), "img00000", "broken jpg")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "WEBP", "ICO"])
def test_other_image_formats_under_a_png_name(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24)).save(buffer, kind)
    refused(write_split(tmp_path / "s", sample({**IMG, "png": buffer.getvalue()})), "img00000", "broken png")


def test_a_script_under_an_image_name(tmp_path: Path) -> None:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\n(x) (w) file\n"
    refused(write_split(tmp_path / "s", sample({**IMG, "png": script})), "img00000", "broken png")


@pytest.mark.parametrize(
    "array",
    [
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1, 1), }", pickle.dumps([1])),
        npy("{'descr': '<f2', 'fortran_order': True, 'shape': (2, 2, 2), }", bytes(16)),
        npy("{'descr': '<f2', 'fortran_order': False, 'shape': (99999, 99999, 99999), }", bytes(16)),
        npy("{'descr': '<f2', 'fortran_order': False, 'shape': (-1, 2, 2), }", bytes(16)),
        npy("{'descr': '<f2', 'fortran_order': False, 'shape': (0, 2, 2), }"),
        npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1, 1, 1), }", bytes(16)),
        npy("__import__('os').mkdir('executed')"),
        npy("{'descr': '<f2', 'fortran_order': False, 'shape': (" + "(" * 5000 + ")" * 5000 + ",), }"),
        npy("{'descr': '<f2', 'fortran_order': False, 'shape': (2, 2, 2), }", bytes(16), version=b"\x02\x00"),
        b"\x93NUMPY",
    ],
    ids=["objects", "Fortran", "huge", "negative", "empty", "records", "code", "deep", "version 2", "cut"],
)
def test_arrays(tmp_path: Path, array: bytes) -> None:
    folder = write_split(tmp_path / "s", sample({**IMG, "features.npy": array}), features={"backbone": "?"})
    refused(folder, "img00000", "features.npy")
    assert not Path("executed").exists()


def test_sparse_files(tmp_path: Path) -> None:
    old = bytearray(member("img00000.json", IMG["json"], type=tarfile.GNUTYPE_SPARSE))
    old[386:398], old[398:410] = b"00000000000\0", b"%011o\0" % len(IMG["json"])  # one stretch of data …
    old[483:495] = b"77777777777\0"  # … of a file of 8 GiB
    lie = _size(bytes(old), bytes(old[124:136]))
    refused(write_split(tmp_path / "a", member("img00000.png", IMG["png"]) + lie), "00000.tar")
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**13)}
    headers["GNU.sparse.name"] = "img00000.json"
    new = pax(headers, "img00000.json", b"1\n0\n512\n".ljust(512, b"\0") + bytes(512))
    refused(write_split(tmp_path / "b", member("img00000.png", IMG["png"]) + new), "00000.tar")


@pytest.mark.parametrize(
    "headers",
    [
        {"path": "../../evil.json"},
        {"path": "/tmp/evil.json"},
        {"path": "img00000.pkl"},
        {"size": str(10**15)},
        {"size": "-512"},
        {"linkpath": "/etc/passwd", "path": "img00000.py"},
    ],
)
def test_extended_headers(tmp_path: Path, headers: dict[str, str]) -> None:
    piece = member("img00000.png", IMG["png"]) + pax(headers, "img00000.json", IMG["json"])
    refused(write_split(tmp_path / "s", piece), "00000.tar")


def test_a_name_of_a_gigabyte(tmp_path: Path) -> None:
    long = member("././@LongLink", b"x" * 1000, type=tarfile.GNUTYPE_LONGNAME)
    refused(write_split(tmp_path / "a", _size(long, b"10000000000\0") + sample(IMG)), "00000.tar")
    endless = b"".join(member("././@LongLink", b"x" * 100, type=tarfile.GNUTYPE_LONGNAME) for _ in range(3000))
    refused(write_split(tmp_path / "b", endless + sample(IMG)), "00000.tar")


@pytest.mark.parametrize(
    "name",
    [
        "../00000.tar",
        "/etc/passwd",
        "a/00000.tar",
        "..",
        "",
        "00000.tar\n",
        "file:///etc/passwd",
        "pipe:id",
        ".tar",
        "x.tgz",
    ],
)
def test_an_index_that_names_files_elsewhere(tmp_path: Path, name: str) -> None:
    folder = write_split(tmp_path / "s", sample(IMG))
    (tmp_path / "00000.tar").write_bytes((folder / "00000.tar").read_bytes())
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0]["file"] = name
    (folder / "index.json").write_text(json.dumps(index))
    refused(folder, f"{name!r} is no shard name")


@pytest.mark.parametrize(
    "changes",
    [
        {"bytes": [2**62], "targets": [1], "expressions": [1]},
        {"bytes": [10**30], "targets": [1], "expressions": [1]},
        {"bytes": [-512], "targets": [1], "expressions": [1]},
        {"bytes": [True], "targets": [1], "expressions": [1]},
        {"bytes": [512.0], "targets": [1], "expressions": [1]},
        {"bytes": [], "targets": [], "expressions": []},
        {"bytes": None},
        [],
    ],
)
def test_numbers_of_an_index(tmp_path: Path, changes: object) -> None:
    folder = write_split(tmp_path / "s", sample(IMG))
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0]["samples"] = changes
    (folder / "index.json").write_text(json.dumps(index))
    refused(folder, "index.json is malformed")


def test_an_index_that_claims_more_targets_than_there_are(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "s", sample(IMG))
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0].update(targets=9, samples={"bytes": [len(sample(IMG))], "targets": [9], "expressions": [1]})
    (folder / "index.json").write_text(json.dumps(index))
    refused(folder, "img00000", "index says more", "index.json says 9 with 1")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format_version": 2, "shards": ' + "[" * 100_000, "{}", "[]", "null"]
)
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    folder = write_split(tmp_path / "s", sample(IMG))
    (folder / "index.json").write_text(text)
    refused(folder, "index.json")


@pytest.mark.parametrize(
    "mask",
    [
        {"size": [24, 32], "counts": "o" * 3_000_000},
        {"size": [2**31, 2**31], "counts": "0"},
        {"size": [24, 32], "counts": [768]},
        {"size": [24, 32], "counts": "P\x00"},
        {"size": [24, 32]},
        "0" * 100,
    ],
)
def test_masks(tmp_path: Path, mask: object) -> None:
    record = json.loads(IMG["json"])
    record["targets"][0]["masks"] = [mask]
    refused(write_split(tmp_path / "s", sample({**IMG, "json": json.dumps(record).encode()})), "img00000", "mask")


def test_a_link_beside_the_index_is_read_as_the_shard_that_it_must_be(tmp_path: Path) -> None:
    folder = make_split(tmp_path / "s", 1)
    size = (folder / "00000.tar").stat().st_size
    (tmp_path / "secret").write_bytes(b"s" * size)
    (folder / "00000.tar").unlink()
    (folder / "00000.tar").symlink_to(tmp_path / "secret")
    refused(folder, "00000.tar", "no plain tar", "sha256")


def test_the_limit_of_memory_is_real(tmp_path: Path) -> None:
    """Without it these tests would prove nothing."""
    assert with_little_memory(_take_a_gigabyte, tmp_path).startswith("MemoryError")


def _take_a_gigabyte(_: Path) -> str:
    return f"{len(bytes(2**30))} bytes"
