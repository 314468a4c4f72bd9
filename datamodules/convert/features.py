"""Copies a split with a feature map for every image; what is killed goes on with the first shard that is not done."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.convert.errors import BadSourceError
from datamodules.shard_file import FEATURES, ShardFile, encode_features, index_text
from datamodules.shard_index import ShardEntry, ShardIndex, read_index
from datamodules.shard_reader import parse_image, parse_record, read_samples
from datamodules.shard_writer import FORMAT_VERSION, INDEX_NAME

_PLAN = "plan.json"
_SPLIT = "split"
_RETIRED = "replaced"
_OWN = {"__key__", "__url__", FEATURES}
_NOTES = {"torch"}
"""What a description only tells: features stay the same without."""


@dataclass(frozen=True)
class Work:
    """How features are computed.

    Attributes:
        encode: makes (B, C, h, w) float16 maps of B images (H, W, 3) uint8.
        description: what ``encode`` computes with, as plain data; kept in the index.
        batch_size: images at a time.
        threads: of decoding.
        overwrite: replace an output that is there.
    """

    encode: Callable[[Sequence[np.ndarray]], np.ndarray]
    description: dict[str, Any]
    batch_size: int
    threads: int
    overwrite: bool = False


def write_features(index: ShardIndex, output: Path, work: Work, advance: Callable[[int], None]) -> bool:
    """Write ``output``, a split with the samples of ``index`` and their features; it appears when it is whole.

    Args:
        index: a local split.
        output: its folder.
        work: how.
        advance: called with the number of images done.

    Returns:
        whether anything was done; not so where the output is there already, of the same source and backbone.

    Raises:
        BadSourceError: the output is the source or something else, another process works on it, or work that was begun
            is of another source or backbone.
        BadSample: an image that cannot be read; the features of a split are complete or not there.
    """
    if output.resolve() == index.folder.resolve():
        raise BadSourceError(f"--output: {output} is the split that features are computed of; name another folder.")
    described = {**work.description, "source_index_sha256": index.sha256}
    partial = output.with_name(f".{output.name}.features-partial")
    if output.exists() and not _replaceable(output, described, work.overwrite):
        if not (partial / _SPLIT).exists():  # what a kill in the last moment left
            shutil.rmtree(partial, ignore_errors=True)
        advance(index.images)
        return False
    partial.mkdir(parents=True, exist_ok=True)
    with _alone(partial):
        _check_plan(partial, described, output)
        (partial / _SPLIT).mkdir(exist_ok=True)
        entries = [_entry(shard, partial, work, advance) for shard in index.shards]
        _finish(index, partial, output, entries, described)
    return True


def _replaceable(output: Path, described: dict[str, Any], overwrite: bool) -> bool:
    if output.is_dir() and not any(output.iterdir()):
        output.rmdir()
        return True
    if not (output / INDEX_NAME).is_file():
        raise BadSourceError(f"--output: {output} is there and no split; name another folder.")
    found = read_index(output).features
    if found is None:
        raise BadSourceError(f"--output: {output} is a split without features; name another folder.")
    differences = _differences(found, described)
    if not differences:
        return False
    if not overwrite:
        raise BadSourceError(
            f"--output: {output} holds features of another {differences}. Name another folder, or add --overwrite to "
            "replace them."
        )
    return True


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Names of what differs, with both values where they are numbers."""
    names = sorted(name for name in {*found, *wanted} - _NOTES if found.get(name) != wanted.get(name))
    pairs = {name: (found.get(name), wanted.get(name)) for name in names}
    return ", ".join(
        name.replace("_", " ") + (f" ({old} there, {new} now)" if isinstance(new, int | float) else "")
        for name, (old, new) in pairs.items()
    )


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    with (partial / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadSourceError(f"another process is computing features into {partial}; wait for it.") from error
        yield


def _check_plan(partial: Path, described: dict[str, Any], output: Path) -> None:
    plan = partial / _PLAN
    if not plan.exists():
        _write_text(plan, json.dumps(described, indent=1))
        return
    if differences := _differences(json.loads(plan.read_text(encoding="utf-8")), described):
        raise BadSourceError(
            f"work on {output} was begun with another {differences}. Go on with what it was begun with, or remove "
            f"{partial} to start again."
        )


def _entry(shard: ShardEntry, partial: Path, work: Work, advance: Callable[[int], None]) -> dict[str, Any]:
    """The index entry of one shard's copy, which is written unless it is there."""
    name = shard.path.name
    done, copy = partial / f"{name}.json", partial / _SPLIT / name
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        if copy.is_file() and copy.stat().st_size == found["bytes"]:
            advance(shard.images)
            return found
    file = ShardFile(partial / f"{name}.part")
    try:
        with ThreadPoolExecutor(work.threads) as pool:
            for samples in _batched(read_samples(shard.path), work.batch_size):
                for sample, features in zip(samples, _features(samples, work, pool), strict=True):
                    members = {name: content for name, content in sample.items() if name not in _OWN}
                    record = parse_record(sample)
                    expressions = sum(len(target.expressions) for target in record.targets)
                    encoded = encode_features(features)
                    file.add_members(record.key, {**members, FEATURES: encoded}, len(record.targets), expressions)
                advance(len(samples))
        entry = {**file.close(), "file": name}
    except BaseException:
        file.abandon()
        raise
    file.path.rename(copy)
    _write_text(done, json.dumps(entry))
    return entry


def _batched(samples: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(samples, size)):
        yield batch


def _features(samples: list[dict[str, Any]], work: Work, pool: ThreadPoolExecutor) -> np.ndarray:
    """(B, C, h, w) float16 maps of a few samples."""
    maps = work.encode(list(pool.map(lambda sample: parse_image(sample, parse_record(sample)), samples)))
    for sample, features in zip(samples, maps, strict=True):
        if not np.isfinite(features).all():
            raise BadSourceError(
                f"sample {sample['__key__']!r} of {sample['__url__']}: its features are not finite as 16-bit numbers, "
                "so they cannot be kept. Compute with this backbone during training instead."
            )
    return maps


def _finish(
    index: ShardIndex, partial: Path, output: Path, entries: list[dict[str, Any]], described: dict[str, Any]
) -> None:
    counts = {unit: sum(entry[unit] for entry in entries) for unit in ("images", "targets", "expressions")}
    about = {"name": index.name, "source": index.source, "licence": index.licence, "features": described}
    content = {"format_version": FORMAT_VERSION, **about, "extra": index.extra, "counts": counts, "shards": entries}
    _write_text(partial / _SPLIT / INDEX_NAME, index_text(content))
    if output.exists():
        shutil.rmtree(partial / _RETIRED, ignore_errors=True)
        output.rename(partial / _RETIRED)
    (partial / _SPLIT).rename(output)
    shutil.rmtree(partial)


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.new")
    part.write_text(text, encoding="utf-8")
    part.rename(path)
