"""Checks a split to the last byte: index against shards, checksums, and every sample as a training would read it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from datamodules.errors import ShardError
from datamodules.records import ImageRecord
from datamodules.rle import instance_masks, union_masks
from datamodules.shard_index import ShardEntry, ShardIndex, read_index
from datamodules.shard_reader import BadSample, parse_features, parse_image, parse_record, read_sample
from datamodules.shard_writer import IMAGE_FORMATS, INDEX_NAME

_BLOCK = 1 << 20
_KEPT = 20
"""Problems of one shard that are told one by one; a shard that is wrong from a byte on would fill the screen."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong.

    Attributes:
        file: shard or index.
        place: sample or byte, ``""`` for the whole file.
        reason: what is wrong there.
    """

    file: str
    place: str
    reason: str


@dataclass
class ShardCheck:
    """What was found in one shard.

    Attributes:
        problems: what is wrong, at most ``_KEPT``.
        more: how many further problems there are.
        keys: keys of its samples.
        masks: masks that were decoded.
        images: images that were decoded.
        bytes: bytes that were read for the checksum.
    """

    problems: list[Problem] = field(default_factory=list)
    more: int = 0
    keys: list[str] = field(default_factory=list)
    masks: int = 0
    images: int = 0
    bytes: int = 0

    def add(self, problem: Problem) -> None:
        """Keep a problem, or count it."""
        if len(self.problems) < _KEPT:
            self.problems.append(problem)
        else:
            self.more += 1


@dataclass
class SplitCheck:
    """What was found in one split.

    Attributes:
        folder: the split.
        index: what its index says; ``None`` where that cannot be read.
        problems: what is wrong.
        more: problems that are only counted.
        masks: masks that were decoded.
        images: images that were decoded.
        bytes: bytes of shards that were read.
    """

    folder: Path
    index: ShardIndex | None = None
    problems: list[Problem] = field(default_factory=list)
    more: int = 0
    masks: int = 0
    images: int = 0
    bytes: int = 0


def verify_split(folder: Path, *, deep: bool, workers: int, progress: Callable[[], None] | None = None) -> SplitCheck:
    """Check one split; nothing that is wrong with it raises.

    Args:
        folder: the split.
        deep: decode every image, too.
        workers: processes; the result does not depend on it.
        progress: called after each shard.

    Raises:
        ShardError: a worker process died.
    """
    found = SplitCheck(folder)
    try:
        found.index = read_index(folder, check_sizes=False)
    except (ShardError, OSError) as error:
        found.problems.append(Problem(str(folder / INDEX_NAME), "", str(error)))
        return found
    index = found.index
    listed = {shard.path.name for shard in index.shards}
    for path in sorted(folder.glob("*.tar")):
        if path.name not in listed:
            found.problems.append(Problem(str(path), "", f"is not listed in {INDEX_NAME}: no run reads it"))
    if len(listed) < len(index.shards):
        found.problems.append(Problem(str(folder / INDEX_NAME), "", "lists a shard twice"))
    seen: dict[str, Path] = {}
    jobs = [(shard, index.features is not None, deep) for shard in index.shards]
    for (shard, _, _), check in zip(jobs, _mapped(jobs, workers, progress), strict=True):
        found.problems += check.problems
        found.more += check.more
        found.masks += check.masks
        found.images += check.images
        found.bytes += check.bytes
        found.problems += _repeated(check.keys, shard.path, seen)
    return found


def _repeated(keys: Iterable[str], path: Path, seen: dict[str, Path]) -> Iterator[Problem]:
    for key in keys:
        if key in seen:
            where = "in this shard" if seen[key] == path else f"in {seen[key].name}"
            yield Problem(str(path), f"sample {key!r}", f"has the key of another sample {where}")
        seen[key] = path


Job = tuple[ShardEntry, bool, bool]


def _mapped(jobs: list[Job], workers: int, progress: Callable[[], None] | None) -> list[ShardCheck]:
    tell = progress or (lambda: None)
    if workers == 1 or len(jobs) == 1:
        found = []
        for job in jobs:
            found.append(check_shard(*job))
            tell()
        return found
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(check_shard, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
                tell()
        except BrokenProcessPool as error:
            raise ShardError(
                f"one of the {workers} processes that read shards died, most often for want of memory. "
                "Use fewer --workers."
            ) from error
        return [future.result() for future in futures]


def check_shard(shard: ShardEntry, features: bool, deep: bool) -> ShardCheck:
    """Check one local shard.

    Args:
        shard: what the index says of it.
        features: whether its samples must have feature maps.
        deep: decode every image, too.
    """
    found = ShardCheck()
    path = str(shard.path)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        found.add(Problem(path, "", f"cannot be opened: {error.strerror}"))
        return found
    try:
        size = os.fstat(descriptor).st_size
        if size != shard.bytes:
            found.add(Problem(path, *_wrong_size(size, shard)))
        found.bytes = _check_content(descriptor, shard, found)
        starts = np.cumsum(shard.samples[0]) - shard.samples[0]
        for number, start in enumerate(starts.tolist()):
            if start >= size:
                break
            try:
                _check_sample(descriptor, shard, number, start, features, deep, found)
            except BadSample as error:
                found.add(Problem(path, f"sample {error.key!r}", error.reason))
            except ShardError as error:
                found.add(Problem(path, f"sample {number} (byte {start})", _shortened(str(error), path)))
    except OSError as error:
        found.add(Problem(path, "", f"cannot be read: {error.strerror}"))
    finally:
        os.close(descriptor)
    return found


def _wrong_size(size: int, shard: ShardEntry) -> tuple[str, str]:
    if size > shard.bytes:
        return f"byte {shard.bytes}", f"has {size} bytes, {INDEX_NAME} says {shard.bytes}: something was appended"
    ends = np.cumsum(shard.samples[0])
    number = int(np.searchsorted(ends, size, side="right"))
    where = f"inside sample {number} of {shard.images}" if number < shard.images else "after its last sample"
    return f"byte {size}", f"ends {where}; {INDEX_NAME} says {shard.bytes} bytes: the file is truncated"


def _check_content(descriptor: int, shard: ShardEntry, found: ShardCheck) -> int:
    """Compare the checksum, and look for members behind the last sample; returns the bytes read."""
    digest = hashlib.sha256()
    samples_end, place, hidden = int(shard.samples[0].sum()), 0, None
    while block := os.pread(descriptor, _BLOCK, place):
        digest.update(block)
        behind = block[max(0, samples_end - place) :]
        if hidden is None and (rest := behind.lstrip(b"\0")):
            hidden = place + len(block) - len(rest)
        place += len(block)
    if digest.hexdigest() != shard.sha256:
        reason = f"sha256 is {digest.hexdigest()}, {INDEX_NAME} says {shard.sha256}: the file was changed or damaged"
        found.add(Problem(str(shard.path), "", reason))
    if hidden is not None:
        reason = "holds something behind its last sample that the index does not list"
        found.add(Problem(str(shard.path), f"byte {hidden}", reason))
    return place


def _check_sample(
    descriptor: int, shard: ShardEntry, number: int, start: int, features: bool, deep: bool, found: ShardCheck
) -> None:
    """Read one sample as a training does, and every mask of it.

    Raises:
        BadSample: it cannot be used.
        ShardError: it is not where the index says, or holds what no shard may hold.
    """
    size, targets, expressions = (int(row[number]) for row in shard.samples)
    content = os.pread(descriptor, size, start)
    if len(content) < size:
        raise ShardError(
            f"is cut off at byte {start + len(content)}, {start + size - start - len(content)} bytes early"
        )
    sample = read_sample(content, str(shard.path), start)
    found.keys.append(sample["__key__"])
    record = parse_record(sample)
    counted = (len(record.targets), sum(len(target.expressions) for target in record.targets))
    if counted != (targets, expressions):
        raise ShardError(
            f"sample {record.key!r} has {counted[0]} targets with {counted[1]} expressions, {INDEX_NAME} says "
            f"{targets} with {expressions}"
        )
    found.masks += _decode_masks(record, str(shard.path))
    if (parse_features(sample) is not None) != features:
        reason = "has no feature map, but" if features else "has a feature map, but"
        raise BadSample(record.key, str(shard.path), f"{reason} {INDEX_NAME} says otherwise")
    if deep:
        parse_image(sample, record)
        found.images += 1
    elif (count := sum(extension in sample for extension in IMAGE_FORMATS)) != 1:
        raise BadSample(record.key, str(shard.path), f"needs one image member, has {count}")


def _decode_masks(record: ImageRecord, path: str) -> int:
    count = 0
    for target in record.targets:
        ignore = [] if target.ignore is None else [target.ignore]
        try:
            instance_masks(target.masks, record.height, record.width)
            union_masks(ignore, record.height, record.width)
        except ValueError as error:
            raise BadSample(record.key, path, f"target {target.target_id!r}: {error}") from error
        count += len(target.masks) + len(ignore)
    return count


def _shortened(message: str, path: str) -> str:
    """An error's message without the name of the file, which has a column of its own."""
    for start in (f"{path}: ", f"{path} "):
        message = message.removeprefix(start)
    return message
