from __future__ import annotations

import io
import tarfile

import pytest

from datamodules.tar_sample import plain_members

FILES = {"a.jpg": b"x" * 1000, "a.json": b"{}", "a.features.npy": b"", "b": bytes(512)}


def tar(files=None, tar_format=tarfile.USTAR_FORMAT, **fields):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tar_format) as archive:
        for name, content in (FILES if files is None else files).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
        end = archive.offset
    return buffer.getvalue()[:end]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_plain_files(tar_format):
    assert plain_members(memoryview(tar(tar_format=tar_format))) == FILES
    assert plain_members(memoryview(b"")) == {}


@pytest.mark.parametrize(
    "content",
    [
        tar({"ä.jpg": b"x"}, tarfile.PAX_FORMAT),
        tar({"a" * 150 + ".jpg": b"x"}, tarfile.GNU_FORMAT),
        tar({"d/" * 60 + "a.jpg": b"x"}),
        tar({"a.jpg": b""}, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        tar({"a.jpg": b""}, type=tarfile.CHRTYPE),
        tar({"a.jpg": b"x"}) * 2,
        tar({"a.jpg": b"x" * 600})[:700],
        tar()[:300],
        b"PK" + tar()[2:],
        tar().replace(b"0001750", b"0001751", 1),
        b"\x1f\x8b" * 400,
        bytes(1024),
    ],
    ids=[
        *["name beyond ASCII", "long name", "name in two fields", "link", "device", "twice the same name"],
        *["cut content", "cut header", "changed name", "changed size", "compressed", "zeros"],
    ],
)
def test_anything_else_is_left_to_the_general_reader(content):
    assert plain_members(memoryview(content)) is None
