"""Reads samples out of shards. Shards are data from elsewhere, never code.

webdataset streams the tar members; its ``decode`` is not used in any form, because it unpickles. Only JSON, JPEG, PNG,
WebP and plain float16 arrays are understood, and a member of any other kind is refused by name.
"""

from __future__ import annotations

import io
import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from PIL import Image

from coprs_lightning.structures import Example
from datamodules.errors import ShardError
from datamodules.jpeg import decode_rgb, read_header
from datamodules.record_json import record_from_json
from datamodules.records import ImageRecord
from datamodules.rle import instance_masks, union_masks
from datamodules.shard_file import FEATURES, MAX_JSON
from datamodules.shard_index import Unit
from datamodules.shard_writer import IMAGE_FORMATS, UNSUPPORTED_MODES
from datamodules.tar_sample import plain_members

Expression = Literal["first", "random"]
_MAGIC_END = 262
_NPY_HEADER = 1 << 17  # more than a header of version 1 can have
_MEMBERS = {"json", FEATURES, *IMAGE_FORMATS}


class BadSample(Exception):
    """One sample that cannot be used, while its shard can.

    Attributes:
        key: the sample's key.
        shard: the tar file.
        reason: what is wrong with it.
    """

    def __init__(self, key: str, shard: str, reason: str) -> None:
        super().__init__(f"sample {key!r} of {shard}: {reason}")
        self.key = key
        self.shard = shard
        self.reason = reason


class Question(NamedTuple):
    """Which question about an image an example asks.

    Attributes:
        target: position of the target in the record.
        expression: position of the expression in the target.
        key: the example's name, unique in its split.
    """

    target: int
    expression: int
    key: str


def read_samples(shard: Path) -> Iterator[dict[str, Any]]:
    """Stream the samples of one shard as ``{"__key__", "__url__", "json": bytes, "jpg": bytes, …}``.

    Raises:
        ShardError: the tar is damaged, compressed, or holds a member of a kind that no shard may hold.
    """
    with shard.open("rb") as stream:
        _check_magic(stream.read(_MAGIC_END), f"{shard}")
        stream.seek(0)
        yield from _samples(stream, str(shard), str(shard))


def read_sample(content: bytes, url: str, start: int) -> dict[str, Any]:
    """The one sample that a piece of a shard holds, see :func:`read_samples`.

    Args:
        content: the bytes of the sample's members with their headers.
        url: the shard, for errors.
        start: where the piece begins in the shard, for errors.

    Raises:
        ShardError: the piece is not exactly one sample, so that shard and index do not belong together.
    """
    if (members := plain_members(memoryview(content))) is not None:
        keys = {name.partition(".")[0] for name in members}
        if len(keys) == 1 and "/" not in (key := keys.pop()):
            sample = {name.partition(".")[2]: member for name, member in members.items()}
            return _checked(key, url, sample)
    where = f"{url} at byte {start}"
    _check_magic(content[:_MAGIC_END], where)
    found = list(_samples(io.BytesIO(content), url, where))
    if len(found) != 1:
        raise ShardError(
            f"{where}: {len(found)} samples where the index says 1: shard and index do not belong together. "
            "Convert the split again."
        )
    return found[0]


def _check_magic(start: bytes, where: str) -> None:
    if start[_MAGIC_END - 5 :] != b"ustar":  # tarfile would unpack gzip and the like, bombs included
        raise ShardError(
            f"{where} is no plain tar file: shards are never compressed, and the numbers of an index fit its own "
            "shards only. Convert the split again."
        )


def _samples(stream: BinaryIO, url: str, where: str) -> Iterator[dict[str, Any]]:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    samples = group_by_keys(tar_file_expander([{"url": url, "stream": stream}]))
    while True:
        try:
            sample = next(samples, None)
        except Exception as error:  # tarfile raises many kinds, and webdataset re-raises them with other arguments
            cause = _printable(str(error.args[0]).split(" @ ")[0]) if error.args else ""
            raise ShardError(
                f"{where} cannot be read to its end: {type(error).__name__}: {cause}. The shard is truncated or "
                "damaged; copy or convert it again."
            ) from error
        if sample is None:
            return
        yield _checked(sample.pop("__key__"), sample.pop("__url__"), sample)


def _checked(key: str, url: str, members: dict[str, Any]) -> dict[str, Any]:
    for name in members.keys() - _MEMBERS:
        member = f"{key}.{name}"  # it may hold control characters
        raise ShardError(
            f"{url}: member {member!r} is refused: shards hold data ({', '.join(sorted(_MEMBERS))}) and nothing that "
            "could run. Do not use this split unless you know where it comes from."
        )
    return {"__key__": key, "__url__": url, **members}


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def parse_record(sample: dict[str, Any]) -> ImageRecord:
    """The record of a sample; masks are checked when they are decoded.

    Raises:
        BadSample: no JSON member, or one that is malformed.
    """
    key, shard = sample["__key__"], sample["__url__"]
    if "json" not in sample:
        raise BadSample(key, shard, "has no JSON member")
    if len(sample["json"]) > MAX_JSON:
        raise BadSample(key, shard, f"JSON member of {len(sample['json'])} bytes, more than {MAX_JSON}")
    try:
        return record_from_json(key, json.loads(bytes(sample["json"])))
    except (ValueError, RecursionError) as error:
        raise BadSample(key, shard, f"bad JSON member: {error}") from error


def parse_image(sample: dict[str, Any], record: ImageRecord) -> np.ndarray:
    """Decode the image to (H, W, 3) uint8 RGB as it is stored; an EXIF rotation is not applied (masks fit the pixels).

    Raises:
        BadSample: no image, several, a broken one, or one of another size than the record says.
    """
    key, shard = sample["__key__"], sample["__url__"]
    found = [extension for extension in IMAGE_FORMATS if extension in sample]
    if len(found) != 1:
        raise BadSample(key, shard, f"needs one image member ({', '.join(IMAGE_FORMATS)}), has {len(found)}")
    try:
        if found[0] == "jpg" and read_header(sample["jpg"]) == (record.height, record.width, 8, 3):
            return decode_rgb(sample["jpg"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about EXIF and palettes; the size is limited by the record's check
            image = Image.open(io.BytesIO(sample[found[0]]), formats=[IMAGE_FORMATS[found[0]]])
            width, height = image.size
            if (height, width) != (record.height, record.width):
                reason = f"image is {height} × {width} pixels, the record says {record.height} × {record.width}"
                raise BadSample(key, shard, reason)
            if image.mode in UNSUPPORTED_MODES:
                raise BadSample(key, shard, f"image mode {image.mode} has more than 8 bits a channel")
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except BadSample:
        raise
    except Exception as error:  # decoders of broken files raise OSError, SyntaxError, struct.error, zlib.error …
        raise BadSample(key, shard, f"broken {found[0]} image: {error}") from error


def parse_features(sample: dict[str, Any]) -> np.ndarray | None:
    """The (C, h, w) float16 feature map, or ``None`` where the sample has none.

    Raises:
        BadSample: another dtype or rank, or a header that does not fit its content.
    """
    if FEATURES not in sample:
        return None
    content = sample[FEATURES]
    file = io.BytesIO(content[:_NPY_HEADER])
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"npy version {version}, expected (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype != np.float16 or len(shape) != 3 or fortran or min(shape) < 1:  # -1 means "the rest" to reshape
            raise ValueError(f"{dtype} array of shape {shape}, expected float16 of shape (C, h, w)")
        # reshape checks the header's shape against the bytes that are there, so nothing is allocated on its word
        return np.frombuffer(content, dtype=dtype, offset=file.tell()).reshape(shape)
    except (ValueError, SyntaxError, TypeError) as error:  # numpy's header parser raises all three
        raise BadSample(sample["__key__"], sample["__url__"], f"bad {FEATURES} member: {error}") from error


def parse_sample(sample: dict[str, Any]) -> tuple[ImageRecord, np.ndarray, np.ndarray | None]:
    """Record, image and features of a sample.

    Raises:
        BadSample: naming key, shard and what is wrong.
    """
    record = parse_record(sample)
    return record, parse_image(sample, record), parse_features(sample)


def questions(
    record: ImageRecord, *, unit: Unit, expression: Expression = "first", seed: str = "", prefix: str = ""
) -> list[Question]:
    """The questions that one image is expanded into.

    Args:
        record: the image's record.
        unit: one question a target, or every expression.
        expression: which expression stands for a target when ``unit`` is ``target``.
        seed: a random choice is a pure function of this and of the target.
        prefix: put before every key, to keep splits apart that are read together.
    """
    found = []
    for number, target in enumerate(record.targets):
        key = f"{prefix}{record.key}/{target.target_id}"
        if unit == "expression":
            found += [Question(number, place, f"{key}/{place}") for place in range(len(target.expressions))]
        elif expression == "random":
            found.append(Question(number, random.Random(f"{seed}/{key}").randrange(len(target.expressions)), key))
        else:
            found.append(Question(number, 0, key))
    return found


def question_at(
    record: ImageRecord, place: int, *, unit: Unit, expression: Expression = "first", seed: str = "", prefix: str = ""
) -> Question | None:
    """``questions(…)[place]`` without making the others; ``None`` where there are not so many."""
    if unit == "target":
        if place >= len(record.targets):
            return None
        target = record.targets[place]
        key = f"{prefix}{record.key}/{target.target_id}"
        number = random.Random(f"{seed}/{key}").randrange(len(target.expressions)) if expression == "random" else 0
        return Question(place, number, key)
    for number, target in enumerate(record.targets):
        if place < len(target.expressions):
            return Question(number, place, f"{prefix}{record.key}/{target.target_id}/{place}")
        place -= len(target.expressions)
    return None


def build_example(
    record: ImageRecord, image: np.ndarray, question: Question, *, features: np.ndarray | None = None, shard: str = ""
) -> Example:
    """Make an example of one question; only its own masks are decoded.

    Args:
        record: the image's record.
        image: (H, W, 3) uint8 RGB.
        question: which target and expression.
        features: (C, h, w) float16 or ``None``.
        shard: the tar file, for errors.

    Raises:
        BadSample: a malformed mask.
    """
    target = record.targets[question.target]
    try:
        instances = instance_masks(target.masks, record.height, record.width)
        ignore = None if target.ignore is None else union_masks([target.ignore], record.height, record.width)
    except ValueError as error:
        raise BadSample(record.key, shard, f"target {target.target_id!r}: {error}") from error
    return Example(
        key=question.key,
        image=image,
        question=target.expressions[question.expression],
        mask=np.asarray(instances[0] if len(instances) == 1 else instances.any(0)),
        ignore=ignore,
        reasoning=target.reasoning,
        kind=target.kind,
        distractors=target.distractors,
        features=features,
        instances=instances if len(instances) > 1 else None,
    )


def expand(
    record: ImageRecord,
    image: np.ndarray,
    *,
    unit: Unit,
    expression: Expression = "first",
    seed: str = "",
    features: np.ndarray | None = None,
) -> list[Example]:
    """All examples of one image, see :func:`questions` and :func:`build_example`."""
    asked = questions(record, unit=unit, expression=expression, seed=seed)
    return [build_example(record, image, question, features=features) for question in asked]
