"""`coprs data hf`: datasets of Hugging Face form as shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from coprs_lightning.commands.data._writing import (
    add_rasteriser_argument,
    add_write_arguments,
    fraction,
    print_summaries,
    progress_bars,
    told_as_command_errors,
    write_options,
)

HELP = "convert a dataset of Hugging Face form (parquet, arrow, JSON lines; local or on the hub) to shards"

_COLUMNS = ("image", "mask", "text", "reasoning", "split")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--input",
        required=True,
        metavar="SOURCE",
        help="a *.parquet, *.arrow or *.jsonl file, a folder of them, or the id of a dataset on the hub (owner/name), "
        "of which only data files are fetched; no code of it is run",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder to write; each split goes to DIR/<split>"
    )
    parser.add_argument("--revision", help="of the dataset on the hub (default: the newest)")
    parser.add_argument("--name", default="", help="of the dataset (default: the name of --input)")
    parser.add_argument("--image-column", metavar="NAME", help="encoded pictures, or their paths (default: image)")
    parser.add_argument(
        "--mask-column",
        metavar="NAME",
        help="nested lists of booleans, PNG pictures, RLEs or polygons, or a list of them (default: mask)",
    )
    parser.add_argument(
        "--text-column", metavar="NAME", help="a question, or a list that mean the same (default: text)"
    )
    parser.add_argument("--reasoning-column", metavar="NAME", help="a written thought (default: none)")
    parser.add_argument("--split-column", metavar="NAME", help="the split of each row (default: from the file's name)")
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of photos that rows name by their path; needed for rows of refs (jxu124/refcoco and its kin), "
        "which are found by their columns image_path and raw_anns",
    )
    parser.add_argument("--split", default="", metavar="NAME", help="put all rows into this split")
    parser.add_argument("--splits", nargs="+", metavar="NAME", help="convert these splits only (default: all)")
    parser.add_argument(
        "--max-missing",
        type=fraction,
        metavar="SHARE",
        default=0.0,
        help="share of the photos of refs that may be missing; their rows are left out (default: %(default)s)",
    )
    parser.add_argument("--keep-leaks", action="store_true", help="keep images in train that other splits show too")
    parser.add_argument(
        "--held-out",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="other datasets of the same form whose images outside train are taken out of this train too; needed when "
        "you train on several that share their photos",
    )
    parser.add_argument(
        "--mask-value", type=int, metavar="N", help="pixel value of PNG masks that means the target (default: not 0)"
    )
    parser.add_argument(
        "--empty-is-no-target",
        action="store_true",
        help="rows without a mask, or with an empty one, ask for what is not in the image (default: they are unusable)",
    )
    add_rasteriser_argument(parser, "pycocotools")
    add_write_arguments(parser, licence="not stated")


def run(args: argparse.Namespace) -> int:
    """Convert and print a summary."""
    from datamodules.convert.hf import HfOptions, plan_hf
    from datamodules.convert.hf_columns import ColumnNames
    from datamodules.convert.rows_splits import check_split
    from datamodules.convert.split import write_splits

    named = {name: value for name in _COLUMNS if (value := getattr(args, f"{name}_column")) is not None}
    with told_as_command_errors():
        options = HfOptions(
            source=args.input,
            revision=args.revision,
            name=args.name,
            names=ColumnNames(**named) if named else None,
            images=args.images,
            splits=args.splits or [],
            split=check_split(args.split, "--split") if args.split else "",
            max_missing=args.max_missing,
            keep_leaks=args.keep_leaks,
            held_out=args.held_out,
            mask_value=args.mask_value,
            rasteriser=args.rasteriser,
            empty_is_no_target=args.empty_is_no_target,
        )
        plan = plan_hf(options, args.output)
        print(f"found {plan.found}")
        with progress_bars() as track:
            summaries = list(write_splits(plan.plans, plan.convert, write_options(args), track))
    print_summaries(summaries, args.output)
    return 0
