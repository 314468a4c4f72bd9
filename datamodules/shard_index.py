"""Reads a split's ``index.json``, local or remote, and checks it against the shards that lie beside it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.errors import ShardError as ShardError
from datamodules.locations import is_remote, join, parent, read_small
from datamodules.shard_writer import FORMAT_VERSION, INDEX_NAME

Unit = Literal["target", "expression"]
"""What one example is: a target asked about once, or every expression by itself (both are benchmark conventions)."""

_COUNTS = ("images", "targets", "expressions", "bytes")
_SAMPLE_COUNTS = ("bytes", "targets", "expressions")
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.tar")


@dataclass(frozen=True)
class ShardEntry:
    """One shard of a split.

    Attributes:
        url: the tar file, a path or a URL.
        images: samples in it.
        targets: targets in it.
        expressions: expressions in it.
        bytes: size of the file.
        sha256: checksum of the file, hexadecimal.
        samples: (3, images) int64, of each sample in the tar's order its size in bytes, targets and expressions; a
            sample begins where the one before it ends.
    """

    url: str
    images: int
    targets: int
    expressions: int
    bytes: int
    sha256: str
    samples: np.ndarray = field(compare=False, repr=False)

    @property
    def path(self) -> Path:
        """The tar file of a local split.

        Raises:
            ShardError: the split is remote.
        """
        if is_remote(self.url):
            raise ShardError(f"{self.url} is no local file; copy the split to this machine for this.")
        return Path(self.url)

    def examples(self, unit: Unit) -> int:
        """Examples that this shard gives."""
        return self.targets if unit == "target" else self.expressions


@dataclass(frozen=True)
class ShardIndex:
    """A split: what it is and which shards it has.

    Attributes:
        location: folder of the split, a path or a URL.
        name: name of the split.
        source: where the data came from.
        licence: licence of the data.
        features: description of the stored feature maps, or ``None``.
        extra: plain data that the converter left.
        shards: the shards in order.
        sha256: checksum of the index itself, hexadecimal.
    """

    location: str
    name: str
    source: str
    licence: str
    features: dict[str, Any] | None
    extra: dict[str, Any]
    shards: list[ShardEntry]
    sha256: str

    @property
    def folder(self) -> Path:
        """Folder of a local split.

        Raises:
            ShardError: the split is remote.
        """
        if is_remote(self.location):
            raise ShardError(f"{self.location} is no local folder; copy the split to this machine for this.")
        return Path(self.location)

    @property
    def images(self) -> int:
        """Images of the split."""
        return sum(shard.images for shard in self.shards)

    def examples(self, unit: Unit) -> int:
        """Examples of the split."""
        return sum(shard.examples(unit) for shard in self.shards)

    def verify(self) -> None:
        """Compare the checksum of every shard; reads the whole split.

        Raises:
            ShardError: naming the first shard whose content changed.
        """
        for shard in self.shards:
            with shard.path.open("rb") as file:
                digest = hashlib.sha256()
                while block := file.read(1 << 20):
                    digest.update(block)
            found = digest.hexdigest()
            if found != shard.sha256:
                raise ShardError(
                    f"{shard.path}: sha256 is {found} but {INDEX_NAME} says {shard.sha256}: the shard was changed or "
                    "damaged after it was written. Copy or convert it again."
                )


def read_index(location: Path | str, *, retries: int = 5, check_sizes: bool = True) -> ShardIndex:
    """Read and check the index of a split.

    Local shards are compared by size, see :meth:`ShardIndex.verify` for their content; remote ones when they arrive.

    Args:
        location: folder of the split, a path or a URL; or one of its shards (``….tar``), which is then read alone.
        retries: attempts after the first where a remote fails.
        check_sizes: compare local shards with what the index says; whoever leaves that out does it later.

    Raises:
        FileNotFoundError: the folder, its index or a shard is missing.
        ShardError: the index is malformed or of another version, or a shard has another size than it says.
    """
    location = str(location)
    if location.endswith(".tar"):
        whole = read_index(parent(location), retries=retries, check_sizes=check_sizes)
        shards = [shard for shard in whole.shards if shard.url.rpartition("/")[2] == location.rpartition("/")[2]]
        if not shards:
            raise FileNotFoundError(f"{location} is not listed in the {INDEX_NAME} beside it.")
        return replace(whole, shards=shards)
    path = join(location, INDEX_NAME)
    text = _read(location, path, retries)
    content = _parse_json(text, path)
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ShardError(
            f"{path}: format version {version!r}, this release reads {FORMAT_VERSION}. "
            "Convert the split again, or use the release that wrote it."
        )
    try:
        index = _parse(location, content, hashlib.sha256(text).hexdigest())
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ShardError(f"{path} is malformed ({type(error).__name__}: {error}); convert the split again.") from error
    if check_sizes and not is_remote(location):
        for shard in index.shards:
            _check_size(shard)
    return index


def _read(location: str, path: str, retries: int) -> bytes:
    if not is_remote(location):
        if not Path(path).is_file():
            raise FileNotFoundError(_missing_index(Path(location)))
        return Path(path).read_bytes()
    try:
        return read_small(path, retries)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is not there: {location} is no split, or only half of one.") from error


def _parse_json(content: bytes, path: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path} is not valid JSON ({error}); convert the split again.") from error


def _missing_index(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is no folder; name the folder of a split (with {INDEX_NAME} and *.tar)."
    found = sorted(item.name for item in folder.iterdir())
    inner = sorted(item.parent.name for item in folder.glob(f"*/{INDEX_NAME}"))
    hint = f" Its folders {', '.join(inner[:5])} hold splits: name one of them." if inner else ""
    listing = f"{len(found)} item(s): {', '.join(found[:5])}" if found else "nothing"
    return f"{folder} has no {INDEX_NAME}, so it is no split or only half of one. It holds {listing}.{hint}"


def _parse(location: str, content: dict[str, Any], sha256: str) -> ShardIndex:
    shards = []
    for item in content["shards"]:
        name = item["file"]
        if not _FILE_NAME.fullmatch(name):  # an index is data from elsewhere: it names files of its own folder only
            raise ValueError(f"{name!r} is no shard name")
        counts = {field: _positive(item[field], f"{name}: {field}") for field in _COUNTS}
        samples = _samples(item["samples"], counts, name)
        shards.append(ShardEntry(url=join(location, name), sha256=str(item["sha256"]), **counts, samples=samples))
    if not shards:
        raise ValueError("it lists no shard")
    about = {field: str(content[field]) for field in ("name", "source", "licence")}
    features, extra = content["features"], content["extra"]
    return ShardIndex(location, **about, features=features, extra=extra, shards=shards, sha256=sha256)


def _samples(table: Any, counts: dict[str, int], name: str) -> np.ndarray:
    rows = [table[field] for field in _SAMPLE_COUNTS]
    if not all(isinstance(row, list) and all(type(value) is int and value > 0 for value in row) for row in rows):
        raise ValueError(f"{name}: the numbers of its samples must be positive integers")
    samples = np.array(rows, dtype=np.int64)
    totals = samples.sum(1).tolist()
    if samples.shape[1] != counts["images"] or totals[1:] != [counts["targets"], counts["expressions"]]:
        raise ValueError(f"{name}: the numbers of its samples do not add up to those of the shard")
    if totals[0] > counts["bytes"]:
        raise ValueError(f"{name}: its samples have {totals[0]} bytes, more than the shard")
    return samples


def _positive(value: Any, what: str) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{what} must be a positive integer, got {value!r}")
    return value


def _check_size(shard: ShardEntry) -> None:
    if not shard.path.is_file():
        raise FileNotFoundError(f"{shard.path} is listed in {INDEX_NAME} but missing: the split was copied in part.")
    found = shard.path.stat().st_size
    if found != shard.bytes:
        raise ShardError(
            f"{shard.path} has {found} bytes but {INDEX_NAME} says {shard.bytes}: the file is truncated or was "
            "changed. Copy or convert it again."
        )
