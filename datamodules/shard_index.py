"""Reads a split's ``index.json`` and checks it against the shards that lie beside it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datamodules.shard_writer import FORMAT_VERSION, INDEX_NAME

Unit = Literal["target", "expression"]
"""What one example is: a target asked about once, or every expression by itself (both are benchmark conventions)."""

_COUNTS = ("images", "targets", "expressions", "bytes")
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.tar")


class ShardError(Exception):
    """A shard or a split that cannot be used as it is: damaged, incomplete, or holding what no shard may hold."""


@dataclass(frozen=True)
class ShardEntry:
    """One shard of a split.

    Attributes:
        path: the tar file.
        images: samples in it.
        targets: targets in it.
        expressions: expressions in it.
        bytes: size of the file.
        sha256: checksum of the file, hexadecimal.
    """

    path: Path
    images: int
    targets: int
    expressions: int
    bytes: int
    sha256: str

    def examples(self, unit: Unit) -> int:
        """Examples that this shard gives."""
        return self.targets if unit == "target" else self.expressions


@dataclass(frozen=True)
class ShardIndex:
    """A split: what it is and which shards it has.

    Attributes:
        folder: folder of the split.
        name: name of the split.
        source: where the data came from.
        licence: licence of the data.
        features: description of the stored feature maps, or ``None``.
        extra: plain data that the converter left.
        shards: the shards in order.
    """

    folder: Path
    name: str
    source: str
    licence: str
    features: dict[str, Any] | None
    extra: dict[str, Any]
    shards: list[ShardEntry]

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


def read_index(folder: Path | str) -> ShardIndex:
    """Read and check the index of a split; shards are compared by size, see :meth:`ShardIndex.verify` for content.

    Raises:
        FileNotFoundError: the folder, its index or a shard is missing.
        ShardError: the index is malformed or of another version, or a shard has another size than it says.
    """
    folder = Path(folder)
    path = folder / INDEX_NAME
    if not path.is_file():
        raise FileNotFoundError(_missing_index(folder))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path} is not valid JSON ({error}); convert the split again.") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ShardError(
            f"{path}: format version {version!r}, this release reads {FORMAT_VERSION}. "
            "Convert the split again, or use the release that wrote it."
        )
    try:
        index = _parse(folder, content)
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path} is malformed ({type(error).__name__}: {error}); convert the split again.") from error
    for shard in index.shards:
        _check_size(shard)
    return index


def _missing_index(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is no folder; name the folder of a split (with {INDEX_NAME} and *.tar)."
    found = sorted(item.name for item in folder.iterdir())
    inner = sorted(item.parent.name for item in folder.glob(f"*/{INDEX_NAME}"))
    hint = f" Its folders {', '.join(inner[:5])} hold splits: name one of them." if inner else ""
    listing = f"{len(found)} item(s): {', '.join(found[:5])}" if found else "nothing"
    return f"{folder} has no {INDEX_NAME}, so it is no split or only half of one. It holds {listing}.{hint}"


def _parse(folder: Path, content: dict[str, Any]) -> ShardIndex:
    shards = []
    for item in content["shards"]:
        name = item["file"]
        if not _FILE_NAME.fullmatch(name):  # an index is data from elsewhere: it names files of its own folder only
            raise ValueError(f"{name!r} is no shard name")
        counts = {field: _positive(item[field], f"{name}: {field}") for field in _COUNTS}
        shards.append(ShardEntry(path=folder / name, sha256=str(item["sha256"]), **counts))
    if not shards:
        raise ValueError("it lists no shard")
    about = {field: str(content[field]) for field in ("name", "source", "licence")}
    return ShardIndex(folder, **about, features=content["features"], extra=content["extra"], shards=shards)


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
