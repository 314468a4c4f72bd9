"""`coprs export`: a trained model as one folder that others can load."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from coprs_lightning.cli_errors import note
from coprs_lightning.commands import CommandError

if TYPE_CHECKING:
    from coprs_lightning.checkpoints.loading import Opened

HELP = "write a trained model as one folder: weights, configuration, tokenizer, model card"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See :mod:`coprs_lightning.commands`."""
    parser.add_argument(
        "--checkpoint", required=True, metavar="PATH", help="folder of a run, a .ckpt file, or an exported folder"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write; made where missing")
    parser.add_argument("--which", choices=["best", "last"], default="best", help="which checkpoint of a run")
    parser.add_argument(
        "--format",
        choices=["coprs", "authors"],
        default="coprs",
        help="coprs: what from_pretrained reads; authors: refseg_modules.pt and llm_hf/ of the paper's released code",
    )
    parser.add_argument(
        "--sam",
        metavar="PATH",
        help="with --format authors: SAM checkpoint for the weights that our decoder leaves out "
        "(segment-anything's .pth, or a transformers folder or hub id)",
    )
    parser.add_argument("--push-to-hub", metavar="ID", help="then upload the folder, as a private model owner/name")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that an earlier export wrote")


def run(args: argparse.Namespace) -> int:
    """See :mod:`coprs_lightning.commands`.

    Raises:
        CommandError: for a missing checkpoint, an output that would be lost, or a hub that refuses.
    """
    from coprs_lightning.checkpoints import hub
    from coprs_lightning.checkpoints.atomic import check_output, written_whole
    from coprs_lightning.checkpoints.authors_files import is_authors_folder
    from coprs_lightning.checkpoints.folder import is_exported
    from coprs_lightning.checkpoints.loading import open_model
    from coprs_lightning.checkpoints.parts import merged

    output, authors = Path(args.output), args.format == "authors"
    if args.sam is not None and not authors:
        raise CommandError("--sam is for --format authors only: our own format holds all that the model has.")
    if args.push_to_hub is not None:
        hub.check_hub_id(args.push_to_hub)
        hub.check_login()
    check_output(output, overwrite=args.overwrite, ours=is_authors_folder if authors else is_exported)
    opened = open_model(args.checkpoint, prefer=args.which)
    opened = replace(opened, model=merged(opened.model))
    if opened.kind:
        note(f"using the {opened.kind} checkpoint of {args.checkpoint}: {opened.path}")
    with written_whole(output) as folder:
        if authors:
            from coprs_lightning.checkpoints import authors_export

            authors_export.write(opened, folder, sam=args.sam)
        else:
            _write(opened, folder, args.push_to_hub or output.name)
    note(f"wrote {', '.join(sorted(path.name for path in output.iterdir()))} to {output}")
    if args.push_to_hub is not None:
        note(f"uploaded: {hub.push(output, args.push_to_hub)}")
    return 0


def _write(opened: Opened, folder: Path, name: str) -> None:
    import shutil

    from callbacks.files import write_json
    from coprs_lightning.checkpoints.card import model_card
    from coprs_lightning.checkpoints.folder import KEPT, write_folder
    from coprs_lightning.checkpoints.records import run_metrics, run_of, run_provenance
    from coprs_lightning.checkpoints.run_folder import SPEC_KEY

    write_folder(opened.model, opened.generation, folder)
    if not opened.header:  # exported before: its records go along
        for file in KEPT:
            if (opened.path / file).is_file():
                shutil.copyfile(opened.path / file, folder / file)
        return
    run_folder = run_of(opened.path)
    metrics, provenance = run_metrics(run_folder), run_provenance(run_folder, opened.path, opened.header)
    if metrics:
        write_json(folder / "metrics.json", metrics)
    write_json(folder / "provenance.json", provenance)
    configured = opened.header[SPEC_KEY]["init_args"]
    card = model_card(opened.model, name=name, configured=configured, metrics=metrics, provenance=provenance)
    (folder / "README.md").write_text(card, encoding="utf-8")
