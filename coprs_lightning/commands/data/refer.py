"""`coprs data refer`: RefCOCO, RefCOCO+, RefCOCOg and RefCLEF as shards."""

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

HELP = "convert RefCOCO, RefCOCO+, RefCOCOg or RefCLEF to shards"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--dataset", required=True, choices=("refcoco", "refcoco+", "refcocog", "refclef"))
    parser.add_argument(
        "--split-by",
        required=True,
        choices=("unc", "google", "umd", "berkeley"),
        help="whose split; benchmarks use unc, and umd for refcocog",
    )
    add_refer_arguments(parser, "refs(<split-by>).p")


def add_refer_arguments(parser: argparse.ArgumentParser, refs: str) -> None:
    """Declare the options that REFER's datasets and gRefCOCO share."""
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="ROOT",
        help=f"folder in the REFER layout: ROOT/<dataset>/{refs} and instances.json, photos in "
        "ROOT/images/mscoco/images/train2014 (ROOT/train2014 and the like are searched too)",
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
        help="keep images in train that evaluation splits show too: other splits of this dataset, and of refcoco, "
        "refcoco+, refcocog and grefcoco where they lie beside it (they share their photos)",
    )
    parser.add_argument(
        "--held-out",
        type=Path,
        nargs="+",
        default=[],
        metavar="REFS",
        help="refs(…).p files that lie elsewhere, whose val and test images are taken out of this train too",
    )
    add_rasteriser_argument(parser, "pycocotools")
    add_write_arguments(
        parser,
        licence="COCO annotations CC BY 4.0; photos under the licences of their Flickr pages; licence of the "
        "expressions not stated",
    )


def run(args: argparse.Namespace) -> int:
    """Convert and print a summary."""
    return convert(args, args.dataset, args.split_by)


def convert(args: argparse.Namespace, dataset: str, split_by: str) -> int:
    """Convert one dataset by the options of :func:`add_refer_arguments`."""
    from datamodules.convert.refer import ReferOptions, plan_refer
    from datamodules.convert.refer_images import convert_refer
    from datamodules.convert.split import write_splits

    options = ReferOptions(
        root=args.input,
        dataset=dataset,
        split_by=split_by,
        splits=args.splits,
        photos=args.images,
        max_missing=args.max_missing,
        keep_leaks=args.keep_leaks,
        held_out=args.held_out,
        rasteriser=args.rasteriser,
    )
    with told_as_command_errors():
        plans = plan_refer(options, args.output)
        with progress_bars() as track:
            summaries = list(write_splits(plans, convert_refer, write_options(args), track))
    print_summaries(summaries, args.output)
    return 0
