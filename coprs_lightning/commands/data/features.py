"""`coprs data features`: the frozen backbone's features, computed once and kept in the shards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coprs_lightning.commands import CommandError
from coprs_lightning.commands.data._writing import positive

if TYPE_CHECKING:
    import torch

    from coprs_lightning.backbones import ImageBackbone

HELP = "compute the backbone's features of shards once; takes the model's options of `coprs fit`"
PASSES_ON = True
"""Words that are not its own are those of `coprs fit`: which backbone it is."""

_BASE = "coprs.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.usage = (
        "coprs data features --input SPLIT [SPLIT …] --output DIR [--backbone FILE_OR_CLASS | --checkpoint RUN] "
        "[--config FILE …] [--model.backbone.OPTION VALUE …]"
    )
    parser.add_argument("--input", type=Path, nargs="+", required=True, metavar="SPLIT", help="folders of splits")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder to write; each split goes to DIR/<its name>"
    )
    parser.add_argument(
        "--backbone",
        metavar="FILE_OR_CLASS",
        help="overlay or config that has the backbone (model/backbone/sam_vit_b.yaml), or a class of them; without it "
        f"that of --config, which is {_BASE} by default",
    )
    parser.add_argument("--checkpoint", metavar="RUN", help="run, .ckpt or exported folder whose backbone to take")
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="images at a time")
    parser.add_argument("--num-workers", type=positive, default=4, metavar="N", help="threads that decode images")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda …")
    parser.add_argument("--overwrite", action="store_true", help="replace features of another backbone")


def run(args: argparse.Namespace) -> int:
    """Compute and write.

    Raises:
        CommandError: for inputs, outputs or a backbone that cannot be used.
    """
    from coprs_lightning.features.description import describe
    from coprs_lightning.features.encoding import Encoder
    from datamodules.convert.errors import BadSourceError
    from datamodules.convert.features import Work, write_features
    from datamodules.errors import ShardError
    from datamodules.shard_index import read_index
    from datamodules.shard_reader import BadSample

    names = [path.resolve().name for path in args.input]
    for path in args.input:
        if path.suffix == ".tar":
            raise CommandError(f"--input: {path} is one shard of a split; name its folder {path.parent}.")
    if len(set(names)) < len(names):
        raise CommandError(f"--input names two splits of the same folder name ({', '.join(names)}); do one at a time.")
    try:
        indexes = [read_index(path) for path in args.input]
    except (FileNotFoundError, ShardError) as error:
        raise CommandError(f"--input: {error}") from error
    device = _device(args.device)
    backbone = _backbone(args).to(device).eval()
    work = Work(Encoder(backbone, device), describe(backbone), args.batch_size, args.num_workers, args.overwrite)
    with _progress() as track:
        for index, name in zip(indexes, names, strict=True):
            output = args.output / name
            try:
                done = write_features(index, output, work, track(name, index.images))
            except (BadSourceError, ShardError, BadSample, OSError) as error:
                raise CommandError(f"{str(error).removesuffix('.')}. {output} was not written.") from error
            print(f"{output}: {index.images:,} images" if done else f"{output}: unchanged")
    return 0


def _device(name: str) -> torch.device:
    import torch

    from coprs_lightning.checkpoints.loading import choose_device

    try:
        return torch.empty(0, device=choose_device(name)).device
    except (RuntimeError, AssertionError) as error:
        raise CommandError(f"--device {name}: {str(error).splitlines()[0]}") from error


def _backbone(args: argparse.Namespace) -> ImageBackbone:
    from coprs_lightning.backbones import CachedBackbone, ImageBackbone

    if args.checkpoint is not None:
        if args.backbone is not None or args.words:
            extra = " ".join(["--backbone"] * (args.backbone is not None) + args.words)
            raise CommandError(f"--checkpoint brings its backbone; leave out {extra}.")
        from coprs_lightning.checkpoints.loading import load_model

        backbone: Any = load_model(args.checkpoint, "cpu").backbone
    else:
        from coprs_lightning.cli_lightning import parse_part

        backbone = parse_part("backbone", _words(args))
    if isinstance(backbone, CachedBackbone):
        raise CommandError("CachedBackbone computes nothing: name the backbone that shall make the features.")
    if not isinstance(backbone, ImageBackbone):
        raise CommandError(f"{type(backbone).__name__} is no ImageBackbone.")
    if args.checkpoint is None and not backbone.frozen:
        raise CommandError(
            f"the config trains the backbone ({type(backbone).__name__}, frozen: false), so its features would change "
            "with every step. Add --model.backbone.frozen true where it shall stay as it is, or give the trained one "
            "with --checkpoint RUN."
        )
    return backbone


def _words(args: argparse.Namespace) -> list[str]:
    """Options of `coprs fit` that say which backbone it is."""
    words: list[str] = list(args.words)
    if not any(word == "--config" or word.startswith("--config=") for word in words):
        words = ["--config", _BASE, *words]
    if args.backbone is None:
        return words
    last = max(place for place, word in enumerate(words) if word.startswith("--config"))
    after = last + (1 if "=" in words[last] else 2)  # configs come first, and a class before its options
    option = "--config" if args.backbone.endswith((".yaml", ".yml")) else "--model.backbone"
    return [*words[:after], option, args.backbone, *words[after:]]


def _progress() -> Any:
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Images a second."""

        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:.1f} images/s" if task.speed else "")

    @contextmanager
    def bars() -> Any:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
        with Progress(*columns) as shown:

            def track(name: str, total: int) -> Any:
                task = shown.add_task(name, total=total)
                return lambda count: shown.advance(task, count)

            yield track

    return bars()
