"""One shard while it is written: a reproducible tar that is hashed on the way, and its entry for the index."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.records import ImageRecord

FEATURES = "features.npy"

MAX_JSON = 8 * 2**20
"""Bytes of a sample's JSON member: parsed, text of empty lists takes twenty times as much memory."""


class _HashedFile:
    """A file that hashes what is written to it, so that a shard is never read again for its checksum."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.bytes

    def close(self) -> None:
        self._file.close()


class ShardFile:
    """A tar of samples; the members of a sample lie together, so that one read brings all of them.

    Args:
        path: the file, replaced if it is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _HashedFile(path)
        self._tar: tarfile.TarFile = tarfile.open(fileobj=self._file, mode="w:")  # type: ignore[call-overload]  # noqa: SIM115
        self._samples: dict[str, list[int]] = {"bytes": [], "targets": [], "expressions": []}

    @property
    def images(self) -> int:
        """Samples written so far."""
        return len(self._samples["bytes"])

    def add_sample(
        self, record: ImageRecord, image_bytes: bytes, extension: str, features: bytes | None = None
    ) -> None:
        """Append one sample; the record is not checked here.

        Args:
            record: see :func:`datamodules.record_json.check_record`.
            image_bytes: the encoded image, written unchanged.
            extension: ``jpg``, ``png`` or ``webp``.
            features: an encoded feature map, see :func:`encode_features`.

        Raises:
            ValueError: the record would be too long for readers.
        """
        text = json.dumps(record.to_json(), ensure_ascii=False, separators=(",", ":"))
        encoded = text.encode()
        if len(encoded) > MAX_JSON:
            raise ValueError(
                f"sample {record.key!r}: its targets take {len(encoded)} bytes as JSON, more than {MAX_JSON}, which is "
                "what readers take. Give fewer targets or simpler masks."
            )
        members = {extension: image_bytes, "json": encoded}
        if features is not None:
            members[FEATURES] = features
        self.add_members(record.key, members, len(record.targets), sum(len(t.expressions) for t in record.targets))

    def add_members(self, key: str, members: dict[str, bytes], targets: int, expressions: int) -> None:
        """Append one sample as the bytes of its members.

        Args:
            key: name of the sample.
            members: content of every member by its extension.
            targets: number of targets in it.
            expressions: number of expressions in it.
        """
        start = self._file.bytes
        for extension, content in members.items():
            self._add(f"{key}.{extension}", content)
        self._samples["bytes"].append(self._file.bytes - start)
        self._samples["targets"].append(targets)
        self._samples["expressions"].append(expressions)

    def _add(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)  # mtime 0, no owner: the same input gives the same bytes
        member.size = len(content)
        member.mode = 0o644
        self._tar.addfile(member, io.BytesIO(content))

    def close(self) -> dict[str, Any]:
        """Finish the tar and return its entry for the index.

        The entry's ``samples`` hold a number for each sample in the tar's order; a sample begins where the ``bytes`` of
        those before it end.
        """
        self._tar.close()
        self._file.close()
        samples = self._samples
        return {
            "file": self.path.name,
            "images": self.images,
            "targets": sum(samples["targets"]),
            "expressions": sum(samples["expressions"]),
            "bytes": self._file.bytes,
            "sha256": self._file.sha256.hexdigest(),
            "samples": samples,
        }

    def abandon(self) -> None:
        """Close the file as it is, after an error."""
        self._file.close()


def encode_features(features: np.ndarray) -> bytes:
    """A (C, h, w) feature map as the bytes of a float16 ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, features.astype(np.float16), allow_pickle=False)
    return buffer.getvalue()


def index_text(index: dict[str, Any]) -> str:
    """The text of an ``index.json``: indented, but with the numbers of a shard's samples on one line each."""
    plain = json.dumps({**index, "shards": []}, indent=1, ensure_ascii=False)
    entries = []
    for entry in index["shards"]:
        about = json.dumps({**entry, "samples": {}}, ensure_ascii=False)
        lists = ",\n".join(
            f'   "{name}": {json.dumps(values, separators=(",", ":"))}' for name, values in entry["samples"].items()
        )
        entries.append(f"  {about.removesuffix('{}}')}{{\n{lists}\n  }}}}")
    return plain.removesuffix("[]\n}") + "[\n" + ",\n".join(entries) + "\n ]\n}\n"
