"""The data files of a Hugging Face dataset: in a local file or folder, or fetched from the hub; and their splits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from datamodules.convert.errors import BadSourceError

SUFFIXES = (".parquet", ".arrow", ".jsonl")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SPLITS = {
    name.lower(): meaning
    for meaning, names in {
        "train": ("train", "training"),
        "val": ("val", "validation", "valid", "dev"),
        "test": ("test",),
        "testA": ("testA",),
        "testB": ("testB",),
        "testC": ("testC",),
    }.items()
    for name in names
}
"""Names of splits that files and folders go by, in lower case."""


@dataclass(frozen=True)
class DataFile:
    """A file of rows.

    Attributes:
        path: where it is.
        name: its path inside the dataset, for errors.
        split: what its name says, ``""`` when it says nothing.
    """

    path: Path
    name: str
    split: str


def split_name(text: str) -> str:
    """The split that a name means: ``validation`` is ``val``; other names stay as they are."""
    return _SPLITS.get(text.lower(), text)


def find_data_files(source: str, revision: str | None = None) -> list[DataFile]:
    """The data files of ``--input``, in the order of their names.

    Args:
        source: a file, a folder, or the id of a dataset on the hub (``owner/name``).
        revision: of the dataset on the hub.

    Raises:
        BadSourceError: no such file or dataset, or no data file in it.
    """
    path = Path(source)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise BadSourceError(f"--input {path} ends in none of {', '.join(SUFFIXES)}.")
        return [DataFile(path, path.name, _split_of(path.name))]
    if not path.is_dir():
        path = _download(source, revision)
    elif revision is not None:
        raise BadSourceError(f"--revision {revision} is of a dataset on the hub, but {path} is a folder. Leave it out.")
    found = sorted(item for item in path.rglob("*") if item.suffix.lower() in SUFFIXES and item.is_file())
    names = {item: item.relative_to(path).as_posix() for item in found}
    files = [DataFile(item, name, _split_of(name)) for item, name in names.items() if not _is_hidden(name)]
    if not files:
        listing = ", ".join(sorted(item.name for item in path.iterdir())[:5]) or "nothing"
        raise BadSourceError(f"--input {source} holds no data file ({', '.join(SUFFIXES)}); found {listing}.")
    return files


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _split_of(name: str) -> str:
    """The split in the name of a file, or else in those of its folders, the nearest first."""
    for part in reversed(name.split("/")):
        for word in re.split(r"[^A-Za-z0-9]+", part):
            if word.lower() in _SPLITS:
                return _SPLITS[word.lower()]
    return ""


def _download(source: str, revision: str | None) -> Path:
    """Fetch the data files of a dataset from the hub, or find them in its cache; no other file of it is fetched."""
    if not _HUB_ID.fullmatch(source):
        raise BadSourceError(
            f"--input {source} is no file, no folder, and no id of a dataset on the Hugging Face hub (owner/name)."
        )
    from huggingface_hub import snapshot_download

    patterns = [f"*{suffix}" for suffix in SUFFIXES]
    try:
        return Path(snapshot_download(source, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub's errors have no common class: HTTP, offline, missing, gated …
        raise BadSourceError(
            f"--input {source} is no file or folder here, and the Hugging Face hub gave no such dataset: {error}\n"
            "Check the name (and `hf auth login` for a private or gated one), or name a folder that holds it."
        ) from error
