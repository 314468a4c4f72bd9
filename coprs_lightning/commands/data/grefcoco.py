"""`coprs data grefcoco`: gRefCOCO, whose questions mean one object, several or none, as shards."""

from __future__ import annotations

import argparse

from coprs_lightning.commands.data import refer

HELP = "convert gRefCOCO (several objects, and none) to shards"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    refer.add_refer_arguments(parser, "grefs(unc).p or .json")


def run(args: argparse.Namespace) -> int:
    """Convert and print a summary."""
    return refer.convert(args, "grefcoco", "unc")
