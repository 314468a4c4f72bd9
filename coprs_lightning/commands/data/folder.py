"""`coprs data folder`: your own images and questions as shards."""

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

HELP = "convert your own images with a table of questions, LabelMe files or COCO annotations to shards"

_TABLE = """\
A table has a row for each question and these columns (CSV with a header, or a JSON object a line):
  image      path of the photo
  question   a text; in JSON also a list of texts that mean the same
  mask       path of a PNG (pixels that are not 0), a COCO RLE, polygons [[x0, y0, x1, y1, ...], ...], or a list with
             one of these for each instance
  target     optional: rows about one image with the same value ask for one target, and share its mask
  no_target  optional: true when nothing in the image is meant; then there is no mask
  ignore     optional: path of a PNG with pixels that count neither for nor against
  reasoning, kind, split   optional texts
Paths are relative to --input, or to a folder of --images; a table reaches no file outside them.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _TABLE
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with the images and a table (*.jsonl, *.csv, *.tsv), LabelMe files or COCO annotations",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder to write; each split goes to DIR/<split>"
    )
    parser.add_argument(
        "--form", choices=("table", "labelme", "coco"), help="of the questions (default: found out from the files)"
    )
    parser.add_argument("--table", type=Path, metavar="FILE", help="the file of questions or annotations, of several")
    parser.add_argument(
        "--images", type=Path, nargs="+", default=[], metavar="DIR", help="further folders of photos and masks"
    )
    parser.add_argument("--name", default="", help="of the dataset (default: the name of --input's folder)")
    parser.add_argument(
        "--question",
        metavar="TEMPLATE",
        help="LabelMe: text with {label}, {description}, {flags} (default: the description of a shape, or 'Where is "
        "the {label}?'); COCO: text with {category}, {supercategory} (default: '{category}')",
    )
    parser.add_argument(
        "--per-instance",
        action="store_true",
        help="LabelMe, COCO: a target for each object (default: one for all objects with the same question)",
    )
    parser.add_argument(
        "--mask-value", type=int, metavar="N", help="pixel value of PNG masks that means the target (default: not 0)"
    )
    add_rasteriser_argument(parser, "pycocotools")
    parser.add_argument("--split", default="", metavar="NAME", help="put all images that name no split into this one")
    parser.add_argument(
        "--val-fraction",
        type=fraction,
        metavar="SHARE",
        default=0.1,
        help="share of the images that name no split to keep for val (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of that choice (default: %(default)s)")
    add_write_arguments(parser, licence="not stated")


def run(args: argparse.Namespace) -> int:
    """Convert and print a summary."""
    from datamodules.convert.folder import plan_folder
    from datamodules.convert.folder_options import FolderOptions
    from datamodules.convert.rows_splits import SplitRule, check_split
    from datamodules.convert.split import write_splits

    with told_as_command_errors():
        options = FolderOptions(
            folder=args.input,
            name=args.name,
            images=args.images,
            table=args.table,
            question=args.question,
            per_instance=args.per_instance,
            mask_value=args.mask_value,
            rasteriser=args.rasteriser,
            rule=SplitRule(check_split(args.split, "--split") if args.split else "", args.val_fraction, args.seed),
        )
        plan = plan_folder(options, args.output, args.form)
        print(f"found {plan.found}")
        for warning in plan.warnings:
            print(f"warning: {warning}")
        with progress_bars() as track:
            summaries = list(write_splits(plan.plans, plan.convert, write_options(args), track))
    print_summaries(summaries, args.output)
    return 0
