"""Where splits lie: local folders and URLs (``http(s)://``, ``s3://``, ``gs://``, ``hf://`` … through fsspec)."""

from __future__ import annotations

import glob
import logging
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from datamodules.errors import ShardError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MAX_INDEX_BYTES = 1 << 30
"""Largest ``index.json`` that is read from elsewhere; a million images take about 30 MB."""

_PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "hf": "huggingface_hub",
}
_FIRST_WAIT = 0.5


def is_remote(location: str) -> bool:
    """Whether a location is a URL."""
    return "://" in location


def join(folder: str, name: str) -> str:
    """A file of a folder."""
    return f"{folder.rstrip('/')}/{name}"


def parent(location: str) -> str:
    """The folder of a file."""
    return location.rstrip("/").rpartition("/")[0] or "."


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, made for this process, and the path in it.

    Raises:
        ShardError: a protocol that is unknown, or whose package is not installed.
    """
    import fsspec

    protocol = url.partition("://")[0]
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        package = _PACKAGES.get(protocol)
        remedy = f"Install it: pip install {package}." if package else "Name a folder, or a URL that fsspec can open."
        raise ShardError(f"{url}: {protocol}:// cannot be opened ({error}). {remedy}") from error
    return found


def expand(pattern: str) -> list[str]:
    """The locations that a pattern names: braces (``{a,b}``, ``{000..012}``) first, then ``*``, ``?`` and ``[…]``.

    Raises:
        FileNotFoundError: a wildcard that fits nothing.
        ValueError: braces that do not close.
    """
    from braceexpand import braceexpand

    try:
        named = list(braceexpand(pattern))
    except ValueError as error:  # braceexpand has no public name for it
        raise ValueError(f"{pattern}: its braces do not close ({error}).") from error
    found: list[str] = []
    for name in named:
        if not glob.has_magic(name):
            found.append(name)
            continue
        if is_remote(name):
            files, path = filesystem(name)
            fitting = sorted(files.unstrip_protocol(item) for item in files.glob(path))
        else:
            fitting = sorted(glob.glob(name))
        if not fitting:
            raise FileNotFoundError(f"{name} fits no folder or file.")
        found += fitting
    return found


def read_small(url: str, retries: int) -> bytes:
    """A small remote file, an index for instance.

    Raises:
        FileNotFoundError: it is not there.
        ShardError: it is too large, or cannot be read after all retries.
    """

    def read() -> bytes:
        files, path = filesystem(url)
        with files.open(path, "rb") as file:
            content: bytes = file.read(MAX_INDEX_BYTES + 1)
        return content

    content = retried(read, url, retries)
    if len(content) > MAX_INDEX_BYTES:
        raise ShardError(f"{url} is larger than {MAX_INDEX_BYTES} bytes, which no index is.")
    return content


def retried(action: Callable[[], Result], what: str, retries: int) -> Result:
    """Do something that a flaky remote may refuse for a while; waits twice as long before each new attempt.

    Args:
        action: what to do.
        what: its name, for the log.
        retries: attempts after the first.

    Raises:
        ShardError: all attempts failed; what is missing or forbidden is raised as it is, at once.
    """
    wait = _FIRST_WAIT
    for attempt in range(retries + 1):
        try:
            return action()
        except (FileNotFoundError, PermissionError, ShardError):
            raise
        except Exception as error:  # each filesystem has errors of its own
            if attempt == retries:
                raise ShardError(
                    f"{what} could not be read in {retries + 1} attempts; the last one: {type(error).__name__}: "
                    f"{error}. Is the network up? data.init_args.retries sets the number of attempts."
                ) from error
            pause = wait * (0.5 + random.random())
            logger.warning("%s: %s: %s; trying again in %.1f s.", what, type(error).__name__, error, pause)
            time.sleep(pause)
            wait *= 2
    raise AssertionError("unreachable")
