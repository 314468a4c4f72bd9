"""Finds the files that a table names. A table may come from anyone, so it reaches no file outside the given folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.convert.errors import BadItemError, BadSourceError

OUTSIDE, MISSING = "path outside the folders", "missing file"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class FileFinder:
    """Finds files by the names that tables and annotations give them.

    Args:
        folder: the folder of ``--input``.
        further: folders of ``--images``, searched first.
        inside: folders below each of them to look in as well.

    Raises:
        BadSourceError: a folder does not exist.
    """

    def __init__(self, folder: Path, further: Sequence[Path] = (), *, inside: Sequence[str] = ()) -> None:
        self.folders = [*further, folder]
        for option, place in [*(("--images", place) for place in further), ("--input", folder)]:
            if not place.is_dir():
                raise BadSourceError(f"{option} {place} is no folder, so no image can be read from it.")
        self._roots = [place.resolve() for place in self.folders]
        self._inside = ["", *inside]
        self._known: dict[Path, Path] = {}

    def __repr__(self) -> str:
        return f"FileFinder({self.folders}, inside={self._inside})"

    def find(self, name: str, *, what: str, where: str, beside: Path | None = None, by_name: str = "") -> Path:
        """The file called ``name``.

        Args:
            name: absolute, or relative to one of the folders; backslashes count as slashes when there is no such file.
            what: the field that names it, for errors.
            where: the row or file that has the field, for errors.
            beside: folder to look in first, itself inside the folders.
            by_name: a second name to try when there is no file of the first.

        Raises:
            BadItemError: no such file, or one that lies outside the folders once links are followed.
        """
        if not name.strip() or "\0" in name:
            raise BadItemError(MISSING, f"{where}: {what} {name!r} is no file name")
        outside: Path | None = None
        for candidate in self._candidates(name, beside, by_name):
            if not _is_file(candidate):
                continue
            if self._contains(candidate):
                return candidate
            outside = candidate
        if outside is not None:
            raise BadItemError(
                OUTSIDE,
                f"{where}: {what} {name!r} is {outside.resolve()}, outside {self._listing()}. It was not read; if "
                "it is meant, name its folder with --images",
            )
        raise BadItemError(
            MISSING,
            f"{where}: {what} {name!r} is not in {self._listing()}. Correct the name, or name the folder with --images",
        )

    def _candidates(self, name: str, beside: Path | None, by_name: str) -> Iterator[Path]:
        for spelling in filter(None, dict.fromkeys((name, name.replace("\\", "/"), by_name))):
            if beside is not None:
                yield beside / spelling
            for folder in self.folders:
                for part in self._inside:
                    yield folder / part / spelling

    def _contains(self, path: Path) -> bool:
        parent = self._known.get(path.parent)
        if parent is None:  # millions of files lie in few folders
            parent = self._known[path.parent] = path.parent.resolve()
        real = parent / path.name
        if real.is_symlink():
            real = real.resolve()
        return any(real.is_relative_to(root) for root in self._roots)

    def _listing(self) -> str:
        return ", ".join(str(folder) for folder in self.folders)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the file system
        return False
