"""What `coprs segment` is asked: images and questions from paths, patterns, folders and JSON lines."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coprs_lightning.commands import CommandError

IMAGE_SUFFIXES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
"""Files of a folder with other suffixes are no images."""

_LONGEST_NAME = 160  # bytes: file systems take 255, endings included
_WILDCARDS = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Task:
    """One question about one image.

    Attributes:
        id: as the user gave it, else the image's name without its ending.
        name: what the result's files are called: safe in a path, and of this task alone.
        image: the file.
        question: what to look for.
        where: where the task comes from, for messages.
    """

    id: str
    name: str
    image: Path
    question: str
    where: str


@dataclass(frozen=True)
class Skip:
    """A task that cannot be answered.

    Attributes:
        where: the image, or file and line.
        reason: why.
    """

    where: str
    reason: str


class Names:
    """Gives every result a name of its own that is safe in a path, on file systems without case too."""

    def __init__(self, taken: Sequence[str] = ()) -> None:
        self._taken = set(taken)

    def make(self, wanted: str) -> str:
        """A name like ``wanted``."""
        safe = re.sub(r"[^\w.-]", "_", wanted).lstrip(".")
        safe = safe.encode()[:_LONGEST_NAME].decode(errors="ignore") or "image"
        name, number = safe, 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{safe}-{number}"
        self._taken.add(name.casefold())
        return name


def is_single(images: Sequence[str]) -> bool:
    """Whether one image is meant, by its path."""
    return len(images) == 1 and not Path(images[0]).is_dir() and (Path(images[0]).is_file() or not _wild(images[0]))


def _wild(text: str) -> bool:
    return _WILDCARDS.search(text) is not None


def image_tasks(images: Sequence[str], question: str, names: Names) -> Iterator[Task]:
    """Tasks for paths, patterns and folders with one question; every file once, in their order.

    Raises:
        CommandError: for a pattern or folder without images.
    """
    seen = set()
    for given in images:
        for path in _expanded(given):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                yield Task(path.stem, names.make(path.stem), path, question, str(path))


def _expanded(given: str) -> list[Path]:
    path = Path(given)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        found = [file for file in found if file.suffix.lower() in IMAGE_SUFFIXES]
        if not found:
            raise CommandError(
                f"--image {given}: the folder holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}). Folders inside it "
                f"are not searched; for those give the pattern '{given.rstrip('/')}/**/*.jpg'."
            )
        return found
    if path.is_file() or not _wild(given):
        return [path]
    found = [file for file in map(Path, sorted(glob.glob(given, recursive=True))) if file.is_file()]
    if not found:
        raise CommandError(f"--image {given}: no file fits the pattern. Check it, in quotes, from {Path.cwd()}.")
    return found


def json_tasks(file: Path, names: Names) -> Iterator[Task | Skip]:
    """Tasks of a file with one JSON object a line: ``image`` (from the file's folder), ``question`` and maybe ``id``.

    Raises:
        CommandError: for a file that cannot be read.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CommandError(f"--input {file} cannot be read: {error.strerror}.") from error
    ids: dict[str, int] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            image, question, given = _fields(line)
            if given is not None and ids.setdefault(given, number) != number:
                raise ValueError(f"id {given!r} is that of line {ids[given]} already")
        except ValueError as error:
            yield Skip(where, str(error))
            continue
        path = file.parent / image
        yield Task(given or path.stem, names.make(given or path.stem), path, question, where)


def _fields(line: bytes) -> tuple[str, str, str | None]:
    """Image, question and id of a line.

    Raises:
        ValueError: telling what is wrong.
    """
    try:
        item: Any = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start})") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"is no JSON ({error})") from error
    if not isinstance(item, dict):
        raise ValueError(f"holds {json.dumps(item)[:40]}, not an object with image and question")
    for name in ("image", "question"):
        value = item.get(name)
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ValueError(f"has no {name}" if name not in item else f"{name} is no text: {value!r}"[:120])
    given = item.get("id")
    if given is None or given == "":
        return item["image"], item["question"], None
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise ValueError(f"id is neither text nor a whole number: {given!r}"[:120])
    return item["image"], item["question"], str(given)
