"""`coprs data reasonseg`: ReasonSeg, data in its LISA JSON format, or its parquet rows, as shards."""

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

HELP = "convert ReasonSeg (images with JSON files in its format, or its parquet rows) to shards"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with pairs X.jpg and X.json, or with such a folder for each split; or a parquet file (or a folder "
        "of them) as in the copies released with Seg-Zero, Ricky06662/ReasonSeg_val and ReasonSeg_test",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder to write; each split goes to DIR/<split>"
    )
    parser.add_argument("--split", metavar="NAME", help="convert this split only, or name the split that --input is")
    parser.add_argument(
        "--ignore-as",
        choices=("ignore", "target"),
        help="'ignore' keeps ignored pixels apart as LISA does; 'target' adds them to the target, as in the copies of "
        "ReasonSeg released with Seg-Zero and VisionReasoner (default: ignore; of parquet rows: target, for "
        "nothing tells them apart there)",
    )
    parser.add_argument(
        "--texts",
        choices=("all", "first"),
        default="all",
        help="keep all wordings of a question, or the original only, which is all that parquet rows have (default: "
        "%(default)s)",
    )
    add_rasteriser_argument(parser, "opencv")
    add_write_arguments(parser, licence="not stated by the source")


def run(args: argparse.Namespace) -> int:
    """Convert and print a summary."""
    from datamodules.convert.reasonseg import convert_reasonseg, plan_reasonseg
    from datamodules.convert.reasonseg_rows import holds_rows, plan_reasonseg_rows
    from datamodules.convert.rows import convert_rows
    from datamodules.convert.split import write_splits

    with told_as_command_errors():
        if rows := holds_rows(args.input):
            plans = plan_reasonseg_rows(
                args.input,
                args.output,
                split=args.split,
                ignore_as=args.ignore_as,
                first=args.texts == "first",
                rasteriser=args.rasteriser,
            )
        else:
            plans = plan_reasonseg(
                args.input,
                args.output,
                split=args.split,
                ignore_as=args.ignore_as or "ignore",
                texts=args.texts,
                rasteriser=args.rasteriser,
            )
        with progress_bars() as track:
            convert = convert_rows if rows else convert_reasonseg
            summaries = list(write_splits(plans, convert, write_options(args), track))
    print_summaries(summaries, args.output)
    return 0
