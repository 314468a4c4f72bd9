"""Splits made to do harm, and a process with little memory that reads them."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import resource
import tarfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from datamodules.errors import ShardError
from datamodules.shard_datamodule import ShardDataModule
from datamodules.shard_reader import BadSample
from datamodules.verification import verify_split
from tests.datamodules.build import make_sample

MEMORY = 512 * 2**20
"""Bytes that reading a small hostile split may take."""


def member(name: str, content: bytes = b"", **fields: Any) -> bytes:
    """One member with its header, padded to whole blocks."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def pax(headers: dict[str, str], name: str, content: bytes) -> bytes:
    """A member with extended headers."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.pax_headers = headers
    return info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)


def good(number: int = 0, **changes: bytes) -> dict[str, bytes]:
    """The members of a good sample by extension, some of them exchanged."""
    record, image = make_sample(number)
    return {"png": image, "json": json.dumps(record.to_json()).encode(), **changes}


def sample(members: dict[str, bytes], key: str = "img00000") -> bytes:
    """A tar's piece with these members."""
    return b"".join(member(f"{key}.{extension}", content) for extension, content in members.items())


def write_split(folder: Path, *samples: bytes, end: bytes = bytes(1024), **index: Any) -> Path:
    """A split of one shard whose index fits it in everything, as somebody who means harm would see to it."""
    folder.mkdir(parents=True)
    content = b"".join(samples) + end
    (folder / "00000.tar").write_bytes(content)
    ones = [1] * len(samples)
    entry = {
        "file": "00000.tar",
        "images": len(samples),
        "targets": len(samples),
        "expressions": len(samples),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "samples": {"bytes": [len(piece) for piece in samples], "targets": ones, "expressions": ones},
    }
    about = {"name": "evil", "source": "?", "licence": "?", "features": None, "extra": {}}
    whole = {"format_version": 2, **about, "counts": {}, "shards": [entry], **index}
    (folder / "index.json").write_text(json.dumps(whole))
    return folder


def read_all(folder: Path) -> dict[str, str]:
    """Read a split as a training and as `coprs data verify` do, each in a process that may take ``MEMORY`` more.

    Returns:
        ``training`` and ``verify``: what was refused. Every other error than the expected kinds is told as it is.
    """
    return {"training": with_little_memory(_train, folder), "verify": with_little_memory(_verify, folder)}


def with_little_memory(call: Callable[[Path], str], folder: Path) -> str:
    """What a call gives in a process that may take ``MEMORY`` more than this one has."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_limited, args=(call, folder, there))
    process.start()
    there.close()
    try:
        return str(here.recv())
    except EOFError:
        return "the process died"
    finally:
        process.join()


def _limited(call: Callable[[Path], str], folder: Path, pipe: Connection) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    try:
        pipe.send(call(folder))
    except BaseException as error:
        pipe.send(f"{type(error).__name__}: {error}")


def _train(folder: Path) -> str:
    try:
        data = ShardDataModule(train=str(folder), image_size=32)
        data.setup("fit")
        return f"{sum(len(batch.keys) for batch in data.train_dataloader())} examples"
    except (ShardError, BadSample) as error:
        return f"refused: {error}"


def _verify(folder: Path) -> str:
    check = verify_split(folder, deep=True, workers=1)
    if not check.problems:
        return f"{check.images} images"
    return "refused: " + "\n".join(f"{p.file} {p.place} {p.reason}" for p in check.problems)


def npy(header: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """An array file with any header."""
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + content


def compressed(content: bytes, kind: str) -> bytes:
    """A whole tar, compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as target:  # type: ignore[call-overload]
        info = tarfile.TarInfo("img00000.png")
        info.size = len(content)
        target.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
