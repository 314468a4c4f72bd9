"""What the commands that write shards share: options, the progress bar, the summary and the way errors are told."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from coprs_lightning.commands import CommandError

if TYPE_CHECKING:
    from datamodules.convert.split import SplitSummary, WriteOptions

_QUANTILES = (5, 25, 50, 75, 95)
_SHOWN = 5


def positive(text: str) -> int:
    """Argument type: an integer ≥ 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be ≥ 1, got {number}")
    return number


def fraction(text: str) -> float:
    """Argument type: a number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to 1, got {text}")
    return number


def add_write_arguments(parser: argparse.ArgumentParser, licence: str) -> None:
    """Add the options of :class:`datamodules.convert.split.WriteOptions`."""
    parser.add_argument(
        "--shards",
        type=positive,
        help="shards a split (default: 1 per 256 images)",
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", default=1, help="processes; the result does not depend on it"
    )
    parser.add_argument(
        "--licence", default=licence, metavar="TEXT", help="of the data, kept in index.json (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace splits that are there")
    parser.add_argument(
        "--max-skipped",
        type=fraction,
        metavar="SHARE",
        default=0.0,
        help="share of broken items to leave out before the conversion fails (default: %(default)s)",
    )


def add_rasteriser_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the option for how polygons become pixels."""
    parser.add_argument(
        "--rasteriser",
        choices=("opencv", "pycocotools"),
        default=default,
        help="how polygons become pixels; kept in index.json (default: %(default)s, as published numbers have it)",
    )


def write_options(args: argparse.Namespace) -> WriteOptions:
    """The options that :func:`add_write_arguments` added."""
    from datamodules.convert.split import WriteOptions

    return WriteOptions(args.licence, args.shards, args.workers, args.overwrite, args.max_skipped)


@contextmanager
def told_as_command_errors() -> Iterator[None]:
    """Turn what a source or a disk does wrong into :class:`CommandError`."""
    from datamodules.convert.errors import BadSourceError

    try:
        yield
    except FileExistsError as error:
        raise CommandError(str(error).replace("pass overwrite=True", "pass --overwrite")) from error
    except (BadSourceError, OSError, ValueError) as error:
        raise CommandError(str(error)) from error


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int], Callable[[], None]]]:
    """A bar for each split: call with name and total, then call the result after each image."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bars:

        def track(name: str, total: int) -> Callable[[], None]:
            task = bars.add_task(name, total=total)
            return lambda: bars.advance(task)

        yield track


def print_summaries(summaries: Sequence[SplitSummary], output: Path) -> None:
    """Print a table with a column for each split, and below it the items that were left out."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", *(summary.name for summary in summaries))
    for label in ("images", "targets", "expressions", "shards"):
        table.add_row(label, *(f"{getattr(summary, label):,}" for summary in summaries))
    table.add_row("size", *(_size(summary.bytes) for summary in summaries))
    for quantile in _QUANTILES:
        table.add_row(f"mask area, % of image: {quantile} % quantile", *(_area(item, quantile) for item in summaries))
    for reason in dict.fromkeys(reason for summary in summaries for reason in summary.skipped):
        table.add_row(f"skipped: {reason}", *(f"{len(item.skipped.get(reason, ())):,}" for item in summaries))
    for note in dict.fromkeys(note for summary in summaries for note in summary.notes):
        table.add_row(note, *(f"{item.notes[note]:,}" for item in summaries))
    console = Console(highlight=False)
    console.print(table)
    for summary in summaries:
        for reason, details in summary.skipped.items():
            console.print(f"{summary.name}, skipped, {reason}:", markup=False)
            for detail in details[:_SHOWN]:
                console.print(f"  {detail}", markup=False)
            if len(details) > _SHOWN:
                console.print(f"  … and {len(details) - _SHOWN} more")
    console.print(f"written to {output}", markup=False, soft_wrap=True)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def _area(summary: SplitSummary, quantile: int) -> str:
    import numpy as np

    if not summary.areas:
        return "–"
    return f"{100 * float(np.quantile(np.array(summary.areas), quantile / 100)):.2g}"
