"""`coprs convert authors`: a checkpoint of the paper's released code as an exported folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from coprs_lightning.cli_errors import note

if TYPE_CHECKING:
    from coprs_lightning.checkpoints.authors_convert import Converted

HELP = "convert a checkpoint of the paper's released code (refseg_modules.pt and llm_hf/)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See :mod:`coprs_lightning.commands`."""
    parser.add_argument("--source", required=True, metavar="DIR", help="folder with refseg_modules.pt and llm_hf/")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write; made where missing")
    parser.add_argument(
        "--backbone",
        required=True,
        metavar="PATH",
        help="SAM checkpoint of the image encoder, which theirs does not hold (segment-anything's .pth, a transformers "
        "folder or hub id such as facebook/sam-vit-huge); none: features come with the data",
    )
    parser.add_argument("--image-size", type=int, default=1024, metavar="N", help="side of the frames in pixels")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that an earlier export wrote")


def run(args: argparse.Namespace) -> int:
    """See :mod:`coprs_lightning.commands`.

    Raises:
        CommandError: for a source with missing or unknown weights, or an output that would be lost.
    """
    from coprs_lightning.checkpoints.atomic import check_output, written_whole
    from coprs_lightning.checkpoints.authors_convert import convert
    from coprs_lightning.checkpoints.authors_files import read_modules
    from coprs_lightning.checkpoints.folder import is_exported

    source, output = Path(args.source), Path(args.output)
    check_output(output, overwrite=args.overwrite, ours=is_exported)
    converted = convert(read_modules(source), source, args.backbone, args.image_size)
    with written_whole(output) as folder:
        _write(converted, folder, source, output.name)
    report = converted.report
    note(f"placed {len(report['placed'])} weights of {source}; {len(report['left_over'])} of SAM have no place in our")
    note("decoder and are kept in leftovers.safetensors:")
    for name in report["left_over"]:
        note(f"  {name}")
    note("assumed, since the files do not tell:")
    for line in report["assumed"]:
        note(f"  {line}")
    note(f"wrote {', '.join(sorted(path.name for path in output.iterdir()))} to {output}")
    return 0


def _write(converted: Converted, folder: Path, source: Path, name: str) -> None:
    import hashlib
    import json

    from safetensors.torch import save_file

    from callbacks.files import write_json
    from coprs_lightning.checkpoints.authors_convert import GENERATION
    from coprs_lightning.checkpoints.authors_export import DTYPES, LEFT_OVERS
    from coprs_lightning.checkpoints.authors_files import MODULES
    from coprs_lightning.checkpoints.card import model_card
    from coprs_lightning.checkpoints.folder import write_folder
    from coprs_lightning.checkpoints.records import versions

    write_folder(converted.model, dict(GENERATION), folder)
    kept = {key: value.contiguous() for key, value in converted.left_over.items()}
    save_file(kept, folder / LEFT_OVERS, metadata={DTYPES: json.dumps(converted.report["dtypes"])})
    write_json(folder / "conversion.json", converted.report)
    origin = {"file": MODULES, "sha256": hashlib.sha256((source / MODULES).read_bytes()).hexdigest()}
    provenance = {"converted_from": origin, "exported_with": versions()}
    write_json(folder / "provenance.json", provenance)
    configured = {slot: part.spec for slot, part in converted.model.components().items()}
    card = model_card(converted.model, name=name, configured=configured, metrics={}, provenance=provenance)
    (folder / "README.md").write_text(card, encoding="utf-8")
