"""`coprs data inspect`: counts of shards, and a contact sheet to look at."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coprs_lightning.commands import CommandError
from coprs_lightning.commands.data._writing import positive

if TYPE_CHECKING:
    from datamodules.split_statistics import SplitStatistics

HELP = "count what shards hold and draw a contact sheet of images, masks and questions"

_FORMATS = (".png", ".jpg", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("path", type=Path, metavar="PATH", help="a split, or a folder with splits in it")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("sheet.png"),
        metavar="FILE",
        help="contact sheet (default: %(default)s)",
    )
    parser.add_argument(
        "--num", type=positive, default=16, help="targets on the sheet, chosen at random (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Print the counts and write the sheet."""
    from datamodules.contact_sheet import draw_sheet
    from datamodules.shard_index import ShardError
    from datamodules.shard_reader import BadSample
    from datamodules.split_statistics import find_splits, read_statistics

    if args.output.suffix.lower() not in _FORMATS:
        raise CommandError(f"--output {args.output}: name a file that ends in {', '.join(_FORMATS)}.")
    try:
        folders = find_splits(args.path)
        read = []
        for place, folder in enumerate(folders):  # the sheet shows every split, as evenly as it can
            panels = args.num * (place + 1) // len(folders) - args.num * place // len(folders)
            read.append(read_statistics(folder, panels=panels, seed=args.seed))
        _print(read)
        title = ", ".join(split.index.name for split in read)
        sheet = draw_sheet([panel for split in read for panel in split.panels], title=title)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(args.output)
    except (ShardError, BadSample, OSError) as error:
        raise CommandError(str(error)) from error
    print(f"contact sheet: {args.output} ({sheet.width} × {sheet.height} pixels)")
    return 0


def _print(read: Sequence[SplitStatistics]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", *(split.index.name for split in read))
    for label in ("images", "targets", "expressions"):
        table.add_row(label, *(f"{getattr(split, label):,}" for split in read))
    table.add_row("shards", *(f"{len(split.index.shards):,}" for split in read))
    for label, field in (
        ("no target", "no_target"),
        ("with ignored pixels", "with_ignore"),
        ("with a written thought", "with_reasoning"),
    ):
        table.add_row(label, *(_share(getattr(split, field), split.targets) for split in read))
    for kind in sorted({kind for split in read for kind in split.kinds}):
        table.add_row(f"kind: {kind}", *(_share(split.kinds[kind], split.targets) for split in read))
    table.add_row("words of a question", *(_range(split.words, "d") for split in read))
    table.add_row("mask area, % of the image", *(_range([100 * area for area in split.areas], ".2g") for split in read))
    table.add_row("image sizes (height × width)", *(_sizes(split) for split in read))
    table.add_row("licence", *(split.index.licence for split in read))
    console = Console(highlight=False)
    console.print(table)
    for split in read:
        console.print(f"first questions of {split.index.name}:", markup=False)
        for text in split.first:
            console.print(f"  {text}", markup=False)


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.3g} %)"


def _range(values: Sequence[float], form: str) -> str:
    """Least, middle and greatest value."""
    ordered = sorted(values)
    return " … ".join(format(value, form) for value in (ordered[0], ordered[len(ordered) // 2], ordered[-1]))


def _sizes(split: SplitStatistics) -> str:
    common = [f"{height} × {width}: {number:,}" for (height, width), number in split.sizes.most_common(3)]
    others = len(split.sizes) - len(common)
    return "\n".join([*common, *([f"{others:,} others"] if others else [])])
