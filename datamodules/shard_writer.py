"""Writes a dataset split as a folder of tar shards with an ``index.json``: reproducible, checked, all or nothing."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from datamodules.record_json import check_record
from datamodules.records import ImageRecord
from datamodules.shard_file import ShardFile, encode_features, index_text

FORMAT_VERSION = 2
INDEX_NAME = "index.json"
IMAGE_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
UNSUPPORTED_MODES = ("I", "I;16", "I;16B", "I;16L", "F")
"""PIL modes above 8 bits a channel: turning them into RGB would clip them to white without a word."""
MAX_OPEN_SHARDS = 512


class ShardWriter:
    """Context manager that writes one split; the folder appears when the block ends without an error, or never.

    Args:
        output: folder of the split; must not exist (or be empty) unless ``overwrite``.
        name: name of the split (``"refcoco-val"``).
        source: where the data came from, a sentence or an address.
        licence: licence of the data.
        images_per_shard: size of a shard when ``num_shards`` is ``None``.
        num_shards: deal the images out to this many shards instead, one after the other. Never more shards than images
            are written.
        extra: plain data kept under ``extra`` in the index (converter options and such).
        features: description of the feature maps that every ``write`` then brings along, or ``None`` for none.
        overwrite: replace a split that is there; a folder with other files than a split's is never replaced.
    """

    def __init__(
        self,
        output: Path | str,
        *,
        name: str,
        source: str,
        licence: str,
        images_per_shard: int = 256,
        num_shards: int | None = None,
        extra: dict[str, Any] | None = None,
        features: dict[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        if images_per_shard < 1:
            raise ValueError(f"images_per_shard must be ≥ 1, got {images_per_shard}.")
        if num_shards is not None and not 1 <= num_shards <= MAX_OPEN_SHARDS:
            raise ValueError(f"num_shards must be 1…{MAX_OPEN_SHARDS} (all are open at once), got {num_shards}.")
        self.output = Path(output)
        self.overwrite = overwrite
        self._check_output()
        self._about = {"name": name, "source": source, "licence": licence, "features": features, "extra": extra or {}}
        json.dumps(self._about)  # plain data or an error now, not after hours of writing
        self._images_per_shard = images_per_shard
        self._num_shards = num_shards
        self._partial = self.output.with_name(f".{self.output.name}.partial-{_process()}")
        self._keys: set[str] = set()
        self._open: list[ShardFile] = []
        self._closed: list[dict[str, Any]] = []
        self._entered = False

    def _check_output(self) -> None:
        if not self.output.exists():
            return
        if not self.output.is_dir():
            raise FileExistsError(f"{self.output} is a file; name the folder of the split.")
        found = sorted(path.name for path in self.output.iterdir())
        if found and not self.overwrite:
            raise FileExistsError(
                f"{self.output} holds {len(found)} file(s) already ({found[0]} …): nothing was written. "
                "Name another folder or pass overwrite=True to replace the split."
            )
        foreign = [item for item in found if item != INDEX_NAME and not item.endswith(".tar")]
        if foreign:
            raise FileExistsError(f"{self.output} holds files of no split ({foreign[0]}), so it is not overwritten.")

    def __enter__(self) -> ShardWriter:
        remove_leftovers(self.output)
        self._partial.mkdir(parents=True)
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered = False
        try:
            if kind is None:
                self._finish()
        finally:
            for shard in self._open:  # only after an error
                with contextlib.suppress(OSError):
                    shard.abandon()
            shutil.rmtree(self._partial, ignore_errors=True)

    def write(
        self, record: ImageRecord, image_bytes: bytes, extension: str, *, features: np.ndarray | None = None
    ) -> None:
        """Add one image with its targets.

        Args:
            record: key, size and targets.
            image_bytes: the encoded image as the source has it; written unchanged.
            extension: ``jpg``, ``png`` or ``webp``.
            features: (C, h, w) feature map, stored as float16; exactly when the writer has a ``features`` description.

        Raises:
            ValueError: naming the key, for a record or an image that readers would reject.
        """
        if not self._entered:
            raise RuntimeError("ShardWriter.write outside its with-block: the split would never be completed.")
        check_record(record)
        if record.key in self._keys:
            raise ValueError(f"sample {record.key!r}: this key was written already; keys are unique in a split.")
        extension = extension.lower().removeprefix(".").replace("jpeg", "jpg")
        _check_image(record, image_bytes, extension)
        if (features is None) != (self._about["features"] is None):
            raise ValueError(
                f"sample {record.key!r}: feature maps are for all samples of a split or none; "
                f"described: {self._about['features'] is not None}, given: {features is not None}."
            )
        shard = self._shard()
        shard.add_sample(record, image_bytes, extension, None if features is None else encode_features(features))
        self._keys.add(record.key)

    def _shard(self) -> ShardFile:
        """The shard that takes the next image."""
        number = len(self._keys)
        if self._num_shards is not None:
            if number < self._num_shards:
                self._open.append(ShardFile(self._partial / f"{number:05d}.tar"))
            return self._open[number % self._num_shards]
        if not self._open or self._open[-1].images >= self._images_per_shard:
            self._close_shards()
            self._open.append(ShardFile(self._partial / f"{len(self._closed):05d}.tar"))
        return self._open[-1]

    def _close_shards(self) -> None:
        self._closed += [shard.close() for shard in self._open]
        self._open = []

    def _finish(self) -> None:
        if not self._keys:
            raise ValueError(f"{self.output}: no sample was written; an empty split is of no use, nothing was kept.")
        self._close_shards()
        totals = {unit: sum(shard[unit] for shard in self._closed) for unit in ("images", "targets", "expressions")}
        index = {"format_version": FORMAT_VERSION, **self._about, "counts": totals, "shards": self._closed}
        (self._partial / INDEX_NAME).write_text(index_text(index), encoding="utf-8")
        self._check_output()
        if self.output.exists():
            retired = self.output.with_name(f".{self.output.name}.old-{_process()}")
            self.output.rename(retired)
            self._partial.rename(self.output)
            shutil.rmtree(retired)
        else:
            self._partial.rename(self.output)


def _process() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def remove_leftovers(output: Path) -> None:
    """Remove what processes of this machine left of this split when they were killed.

    A folder with this process's own number is an earlier one's: in containers every start has the same number.
    """
    for path in [*output.parent.glob(f".{output.name}.partial-*"), *output.parent.glob(f".{output.name}.old-*")]:
        host, _, process = re.split(r"\.(?:partial|old)-", path.name)[-1].rpartition("-")
        if host != socket.gethostname() or not process.isdigit():
            continue
        if int(process) == os.getpid() or not _runs(int(process)):
            shutil.rmtree(path, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _check_image(record: ImageRecord, image_bytes: bytes, extension: str) -> None:
    """Compare what the header of the image says with the record; pixels are not decoded."""
    where = f"sample {record.key!r}"
    if extension not in IMAGE_FORMATS:
        raise ValueError(f"{where}: image extension {extension!r} is none of {', '.join(IMAGE_FORMATS)}.")
    try:
        with Image.open(io.BytesIO(image_bytes), formats=[IMAGE_FORMATS[extension]]) as image:
            (width, height), mode = image.size, image.mode
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: the image bytes are no readable {extension}: {error}") from error
    if mode in UNSUPPORTED_MODES:
        raise ValueError(f"{where}: image mode {mode} has more than 8 bits a channel; convert it to 8 bits first.")
    if (height, width) != (record.height, record.width):
        raise ValueError(
            f"{where}: the image is {height} × {width} pixels but the record says {record.height} × {record.width} "
            "(height × width, as stored, before any EXIF rotation)."
        )
