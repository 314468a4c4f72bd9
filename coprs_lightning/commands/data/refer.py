"""`coprs data refer`: RefCOCO, RefCOCO+, RefCOCOg and RefCLEF as shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from coprs_lightning.commands.data._writing import (
    add_write_arguments,
    fraction,
    print_summaries,
    progress_bars,
    told_as_command_errors,
    write_options,
)

HELP = "convert RefCOCO, RefCOCO+, RefCOCOg or RefCLEF to shards"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="ROOT",
        help="folder in the REFER layout: ROOT/<dataset>/refs(<split-by>).p and instances.json, photos in "
        "ROOT/images/mscoco/images/train2014 (ROOT/train2014 and the like are searched too)",
    )
    parser.add_argument("--dataset", required=True, choices=("refcoco", "refcoco+", "refcocog", "refclef"))
    parser.add_argument(
        "--split-by",
        required=True,
        choices=("unc", "google", "umd", "berkeley"),
        help="whose split; benchmarks use unc, and umd for refcocog",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder to write; each split goes to DIR/<dataset>_<split-by>/<split>",
    )
    parser.add_argument("--splits", nargs="+", metavar="NAME", help="train, val, testA … (default: all that occur)")
    parser.add_argument(
        "--images", type=Path, nargs="+", default=[], metavar="DIR", help="further folders of photos, searched first"
    )
    parser.add_argument(
        "--max-missing",
        type=fraction,
        metavar="SHARE",
        default=0.0,
        help="share of the photos that may be missing; their refs are left out (default: %(default)s)",
    )
    parser.add_argument(
        "--keep-leaks",
        action="store_true",
        help="keep images in train that other splits show too (the google splits divide objects, not images)",
    )
    parser.add_argument(
        "--held-out",
        type=Path,
        nargs="+",
        default=[],
        metavar="REFS",
        help="refs(…).p files of other datasets whose val and test images are taken out of this train too; needed "
        "when you train on several of these datasets, which share their photos",
    )
    add_write_arguments(
        parser,
        licence="COCO annotations CC BY 4.0; photos under the licences of their Flickr pages; licence of the "
        "expressions not stated",
    )


def run(args: argparse.Namespace) -> int:
    """Convert and print a summary."""
    from datamodules.convert.refer import ReferOptions, plan_refer
    from datamodules.convert.refer_images import convert_refer
    from datamodules.convert.split import write_splits

    options = ReferOptions(
        root=args.input,
        dataset=args.dataset,
        split_by=args.split_by,
        splits=args.splits,
        photos=args.images,
        max_missing=args.max_missing,
        keep_leaks=args.keep_leaks,
        held_out=args.held_out,
    )
    with told_as_command_errors():
        plans = plan_refer(options, args.output)
        with progress_bars() as track:
            summaries = list(write_splits(plans, convert_refer, write_options(args), track))
    print_summaries(summaries, args.output)
    return 0
