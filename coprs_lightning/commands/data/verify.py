"""`coprs data verify`: checks shards to the last byte before they are relied on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coprs_lightning.commands import CommandError
from coprs_lightning.commands.data._writing import positive, progress_bars

if TYPE_CHECKING:
    from datamodules.verification import SplitCheck

HELP = "check shards: checksums, and that every sample can be read"

_SHOWN = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("path", type=Path, metavar="PATH", help="a split, or a folder with splits in it")
    parser.add_argument("--deep", action="store_true", help="decode every image, too")
    parser.add_argument("--workers", type=positive, metavar="N", default=1, help="processes (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Print what is wrong, or a summary; 1 where anything is wrong."""
    from datamodules.errors import ShardError
    from datamodules.shard_writer import INDEX_NAME
    from datamodules.split_statistics import find_splits
    from datamodules.verification import verify_split

    try:
        found = []
        with progress_bars() as track:
            for folder in find_splits(args.path):
                step = track(folder.name, len(list(folder.glob("*.tar"))))
                found.append(verify_split(folder, deep=args.deep, workers=args.workers, progress=step))
    except (ShardError, OSError) as error:
        raise CommandError(str(error)) from error
    problems = sum(len(split.problems) + split.more for split in found)
    _print_summary(found, args.deep)
    if problems:
        _print_problems(found, problems)
        print(f"{problems} problem(s). Copy or convert what is damaged again; {INDEX_NAME} is never changed to fit.")
    return int(problems > 0)


def _print_summary(found: Sequence[SplitCheck], deep: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("split", "shards", "images", "targets", "expressions", "masks", "GB", "")
    for split in found:
        index = split.index
        counts = [0] * 4
        if index is not None:
            counts = [len(index.shards), index.images, index.examples("target"), index.examples("expression")]
        verdict = f"{len(split.problems) + split.more} problem(s)" if split.problems else "good"
        numbers = [f"{count:,}" for count in [*counts, split.masks]]
        table.add_row(split.folder.name, *numbers, f"{split.bytes / 1e9:.3g}", verdict)
    console = Console(highlight=False)
    console.print(table)
    decoded = f"and decoded {sum(split.images for split in found):,} images" if deep else "(--deep decodes images, too)"
    console.print(f"Compared sizes and SHA-256, read every sample, decoded every mask {decoded}.", markup=False)


def _print_problems(found: Sequence[SplitCheck], total: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("file", "where", "what is wrong")
    shown = [problem for split in found for problem in split.problems][:_SHOWN]
    for problem in shown:
        # text, not markup: names come from the data, and so might brackets and control characters
        table.add_row(*(Text(_printable(cell)) for cell in (problem.file, problem.place, problem.reason)))
    console = Console(highlight=False)
    console.print(table)
    if total > len(shown):
        console.print(f"… and {total - len(shown):,} more", markup=False)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
