"""`coprs data synthetic`: the synthetic dataset as shards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from coprs_lightning.commands.data._writing import positive, told_as_command_errors

if TYPE_CHECKING:
    from datamodules.synthetic.write import SplitSummary

HELP = "draw the synthetic dataset: coloured shapes, questions, thoughts and masks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder to write; each split goes to DIR/<split>"
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: %(default)s)")
    for split, images, what in (
        ("train", 12_000, "training"),
        ("val", 500, "validation"),
        ("test", 500, "test"),
        ("generalisation", 500, "colour–form pairs that no other split shows"),
        ("reinforce", 0, "questions by unfamiliar facts without written thoughts, to learn from reward"),
        ("reinforce-val", 0, "validation of the same"),
        ("several", 0, "questions that one shape answers, several do, or none, for several concentration tokens"),
        ("several-val", 0, "validation of the same"),
    ):
        parser.add_argument(
            f"--{split}",
            type=int,
            default=images,
            metavar="N",
            help=f"images: {what} (default: %(default)s; 0: the split is neither written nor touched)",
        )
    parser.add_argument("--questions-per-image", type=positive, default=4, help="default: %(default)s")
    parser.add_argument("--image-size", type=positive, default=128, help="longer side in pixels (default: %(default)s)")
    parser.add_argument(
        "--shards",
        type=positive,
        default=8,
        help="a split, at least ranks × loader workers (default: %(default)s)",
    )
    parser.add_argument("--workers", type=positive, default=1, help="processes; the result does not depend on it")
    parser.add_argument("--overwrite", action="store_true", help="replace splits that are there")


def run(args: argparse.Namespace) -> int:
    """Draw, write and print a summary."""
    from datamodules.synthetic.write import write_synthetic

    with told_as_command_errors():
        summaries = write_synthetic(
            args.output,
            seed=args.seed,
            train=args.train,
            val=args.val,
            test=args.test,
            generalisation=args.generalisation,
            reinforce=args.reinforce,
            reinforce_val=args.reinforce_val,
            several=args.several,
            several_val=args.several_val,
            questions_per_image=args.questions_per_image,
            image_size=args.image_size,
            shards=args.shards,
            workers=args.workers,
            overwrite=args.overwrite,
        )
    _print(summaries, args.output)
    return 0


def _print(summaries: dict[str, SplitSummary], output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", *summaries)
    table.add_row("images", *(f"{item.images:,}" for item in summaries.values()))
    table.add_row("questions", *(f"{item.questions:,}" for item in summaries.values()))
    for kind in sorted({kind for item in summaries.values() for kind in item.kinds}):
        table.add_row(f"  {kind}", *(f"{item.kinds.get(kind, 0):,}" for item in summaries.values()))
    table.add_row("words of a thought (mean)", *(_number(item.thought_words) for item in summaries.values()))
    table.add_row("words of a thought (most)", *(_number(item.longest_thought) for item in summaries.values()))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"written to {output}", markup=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"
