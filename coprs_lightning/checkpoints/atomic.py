"""Writing a folder so that nobody ever sees half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from coprs_lightning.commands import CommandError


def check_output(output: Path, *, overwrite: bool, ours: Callable[[Path], bool]) -> None:
    """Refuse a place where something would be lost, before any work is done.

    Args:
        output: folder to be written.
        overwrite: the user allows a folder of the same kind to be replaced.
        ours: whether a folder is of that kind.

    Raises:
        CommandError: telling what is there.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise CommandError(f"--output {output} is a file. Name a folder.")
    if not any(output.iterdir()):
        return
    if not ours(output):
        raise CommandError(f"--output {output} holds other files, which are not replaced. Name another folder.")
    if not overwrite:
        raise CommandError(f"--output {output} exists. Name another folder, or add --overwrite to replace it.")


@contextmanager
def written_whole(output: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``output`` at the end and is removed after an error."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".tmp", dir=output.parent))
    try:
        yield temporary
        _as_usual(temporary)
        old = temporary.with_name(f"{temporary.name}.old")
        if output.exists():
            os.replace(output, old)
        os.replace(temporary, output)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _as_usual(folder: Path) -> None:
    """Give files and folders their usual permissions: tempfile and safetensors make private ones."""
    mask = os.umask(0)
    os.umask(mask)
    for path in [folder, *folder.rglob("*")]:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
