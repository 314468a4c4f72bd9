"""`coprs data reasonseg`: ReasonSeg, or data in its LISA JSON format, as shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from coprs_lightning.commands.data._writing import (
    add_rasteriser_argument,
    add_write_arguments,
    print_summaries,
    progress_bars,
    told_as_command_errors,
    write_options,
)

HELP = "convert ReasonSeg, or images with JSON files in its format, to shards"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with pairs X.jpg and X.json, or with such a folder for each split",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder to write; each split goes to DIR/<split>"
    )
    parser.add_argument("--split", metavar="NAME", help="convert this split only, or name the split that --input is")
    parser.add_argument(
        "--ignore-as",
        choices=("ignore", "target"),
        default="ignore",
        help="'ignore' keeps ignored pixels apart as LISA does; 'target' adds them to the target, as in the copies of "
        "ReasonSeg released with Seg-Zero and VisionReasoner (default: %(default)s)",
    )
    parser.add_argument(
        "--texts",
        choices=("all", "first"),
        default="all",
        help="keep all wordings of a question, or the original only (default: %(default)s)",
    )
    add_rasteriser_argument(parser, "opencv")
    add_write_arguments(parser, licence="not stated by the source")


def run(args: argparse.Namespace) -> int:
    """Convert and print a summary."""
    from datamodules.convert.reasonseg import convert_reasonseg, plan_reasonseg
    from datamodules.convert.split import write_splits

    with told_as_command_errors():
        plans = plan_reasonseg(
            args.input,
            args.output,
            split=args.split,
            ignore_as=args.ignore_as,
            texts=args.texts,
            rasteriser=args.rasteriser,
        )
        with progress_bars() as track:
            summaries = list(write_splits(plans, convert_reasonseg, write_options(args), track))
    print_summaries(summaries, args.output)
    return 0
