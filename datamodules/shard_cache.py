"""Remote shards on the local disk: each is fetched once for all processes of a machine, and the oldest make room."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datamodules.errors import ShardError
from datamodules.locations import filesystem, is_remote, retried
from datamodules.shard_index import ShardEntry

_BLOCK = 1 << 20
_ATTEMPTS = 5


def default_cache_folder() -> Path:
    """Where remote shards are kept unless told otherwise: the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coprs_lightning" / "shards"


class ShardCache:
    """Opens shards, remote ones through a bounded folder.

    A file of the cache is named after the shard's address, size and checksum, so two datasets never get each other's
    shards, and a shard that was written anew is fetched anew. What arrives is compared with the index; a transfer that
    broke off or was damaged counts as a failed attempt.

    Args:
        folder: of the cache; ``None`` for :func:`default_cache_folder`.
        max_bytes: size of the cache; the shards that were not opened for the longest time are removed above it.
        retries: attempts after the first for every transfer.
    """

    def __init__(self, folder: Path | None, max_bytes: int, retries: int) -> None:
        self.folder = default_cache_folder() if folder is None else folder
        self.max_bytes = max_bytes
        self.retries = retries
        self._ahead: ThreadPoolExecutor | None = None
        self._asked: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ahead": None, "_asked": set()}  # threads stay in their process

    def open(self, shard: ShardEntry) -> int:
        """A file descriptor of the shard.

        Raises:
            ShardError: the shard is missing, or cannot be fetched.
        """
        if not is_remote(shard.url):
            try:
                return os.open(shard.url, os.O_RDONLY)
            except OSError as error:
                raise ShardError(f"{shard.url} cannot be opened: {error}.") from error
        for _ in range(_ATTEMPTS):
            path = self.fetch(shard)
            with contextlib.suppress(FileNotFoundError):  # another process made room in between
                return os.open(path, os.O_RDONLY)
        raise ShardError(
            f"{shard.url} was removed from the cache {self.folder} as often as it was fetched: the cache is too small "
            "for the processes that share it. Raise data.init_args.cache_gigabytes."
        )

    def fetch(self, shard: ShardEntry) -> Path:
        """The local copy of a remote shard, fetched if it is not there.

        Raises:
            ShardError: it is missing, or no attempt brought what the index says.
        """
        digest = hashlib.sha256(f"{shard.url}\n{shard.bytes}\n{shard.sha256}".encode()).hexdigest()[:32]
        path = self.folder / f"{digest}.tar"
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / f"{digest}.lock"):  # one process fetches, the others wait for it
            if not path.exists():
                part = path.with_suffix(f".part-{os.getpid()}")
                try:
                    retried(lambda: _transfer(shard, part), shard.url, self.retries)
                    part.rename(path)
                except (FileNotFoundError, PermissionError) as error:
                    raise ShardError(
                        f"{shard.url} cannot be read ({error}): its index lists it, so the split was copied in part."
                    ) from error
                finally:
                    part.unlink(missing_ok=True)
                self._make_room(path)
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)  # the time of its last use
        return path

    def prefetch(self, shards: Iterable[ShardEntry]) -> None:
        """Fetch remote shards in the background; what goes wrong is told when they are opened."""
        for shard in shards:
            if not is_remote(shard.url) or shard.url in self._asked:
                continue
            self._asked.add(shard.url)
            if self._ahead is None:
                self._ahead = ThreadPoolExecutor(1, thread_name_prefix="shard-prefetch")
            self._ahead.submit(self.fetch, shard)

    def forget(self) -> None:
        """A new epoch asks for the same shards again."""
        self._asked.clear()

    def _make_room(self, kept: Path) -> None:
        with _locked(self.folder / "room.lock"):
            files = []
            for path in self.folder.glob("*.tar"):
                with contextlib.suppress(FileNotFoundError):
                    files.append((path.stat().st_mtime, path.stat().st_size, path))
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if total <= self.max_bytes:
                    return
                if path != kept:  # whoever has it open reads on: the file goes when it is closed
                    path.unlink(missing_ok=True)
                    total -= size


def _transfer(shard: ShardEntry, target: Path) -> None:
    files, path = filesystem(shard.url)
    digest, count = hashlib.sha256(), 0
    with files.open(path, "rb", cache_type="readahead", block_size=8 * _BLOCK) as source, target.open("wb") as file:
        while block := source.read(_BLOCK):
            file.write(block)
            digest.update(block)
            count += len(block)
            if count > shard.bytes:
                break
    if count != shard.bytes:
        raise OSError(f"{count} bytes arrived, index.json says {shard.bytes}")
    if digest.hexdigest() != shard.sha256:
        raise OSError(f"sha256 of what arrived is {digest.hexdigest()}, index.json says {shard.sha256}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
