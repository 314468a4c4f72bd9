"""`coprs report`: everything about a run on one page that can be opened, sent and archived as it is."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from coprs_lightning.commands import CommandError

HELP = "write one HTML page about a run: results, curves, correlations, examples, failures, provenance"

FILE = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See :mod:`coprs_lightning.commands`."""
    parser.add_argument("run", metavar="RUN", help="folder of a run (its trainer.default_root_dir)")
    parser.add_argument("--output", metavar="FILE", help=f"the page; by default {FILE} in the run's folder")


def run(args: argparse.Namespace) -> int:
    """See :mod:`coprs_lightning.commands`.

    Raises:
        CommandError: for a folder that holds no run, or a page that cannot be written.
    """
    from coprs_lightning.report.page import render
    from coprs_lightning.report.run_files import read_run

    folder = Path(args.run)
    if not folder.is_dir():
        raise CommandError(f"there is no folder {folder}. Name a run: the trainer.default_root_dir of `coprs fit`.")
    found = read_run(folder)
    if found.empty:
        raise CommandError(
            f"{folder} holds no run: no config.yaml, no logs, no results.json and no evaluation. Name the "
            "trainer.default_root_dir of `coprs fit`."
        )
    output = Path(args.output) if args.output else folder / FILE
    text = render(found)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(text.encode("utf-8", "replace"))
        os.replace(temporary, output)
    except OSError as error:
        raise CommandError(
            f"the page cannot be written to {output}: {error}. Name another file with --output."
        ) from error
    print(f"{output} ({len(text) / 1e6:.1f} MB)")
    return 0
