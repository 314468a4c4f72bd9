"""`coprs explain`: why one mask is as it is, and what it would be otherwise."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from coprs_lightning.cli_errors import is_message, note
from coprs_lightning.commands import CommandError

if TYPE_CHECKING:
    import numpy as np

    from coprs_lightning.explain import Explanation

HELP = "take one answer apart: thought, heatmap, decoder, and what other thoughts and heatmaps would give"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See :mod:`coprs_lightning.commands`."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="folder of a run or of `coprs export`, a .ckpt file, or an id on the Hugging Face hub",
    )
    parser.add_argument("--image", required=True, metavar="FILE", help="image of any usual format")
    parser.add_argument("--question", required=True, metavar="TEXT", help="what to look for")
    parser.add_argument("--output", default="explanation", metavar="DIR", help="folder for the results")
    parser.add_argument("--thought", metavar="TEXT", help="answer again with this thought in place of the model's")
    parser.add_argument(
        "--no-thought", action="store_true", help="answer again without any thought (done where no --thought is given)"
    )
    parser.add_argument(
        "--box",
        metavar="LEFT,TOP,RIGHT,BOTTOM",
        help="answer again with this box as the heatmap; pixels, right and bottom are the first ones outside",
    )
    parser.add_argument(
        "--heatmap",
        metavar="FILE",
        help="answer again with this heatmap of the image's size: grey picture (white is 1) or .npy of logits",
    )
    parser.add_argument("--target", metavar="FILE", help="the mask that would be right, as a picture: bright is inside")
    parser.add_argument(
        "--leave-out",
        type=int,
        default=64,
        metavar="N",
        help="leave out each of the first N tokens of the thought and measure what the heatmap does; 0 does not",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="longest completion; by default the checkpoint's"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps …")


def run(args: argparse.Namespace) -> int:
    """See :mod:`coprs_lightning.commands`.

    Raises:
        CommandError: for a missing or broken checkpoint, image or map, or options that do not fit.
    """
    _check(args)
    box = None if args.box is None else parse_box(args.box)
    from coprs_lightning.checkpoints.loading import choose_device, open_model
    from coprs_lightning.explain.writing import write
    from coprs_lightning.images import read_image

    image = read_image(Path(args.image))
    target = None if args.target is None else read_target(Path(args.target))
    opened = open_model(args.checkpoint, device=choose_device(args.device))
    if opened.kind:
        note(f"using the {opened.kind} checkpoint of {args.checkpoint}: {opened.path}")
    explanation = _explain(args, opened.model, image, box, target)
    names = write(explanation, Path(args.output), checkpoint=str(opened.path), image=args.image)
    print(explanation.original.completion)
    for sentence in explanation.findings:
        print(f"- {sentence}")
    note(f"wrote {', '.join(names)} to {args.output}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if not args.question.strip():
        raise CommandError("--question is empty: there is nothing to look for. Ask for something.")
    if args.thought is not None and args.no_thought:
        raise CommandError(
            "--thought gives another thought and --no-thought takes it away: which is meant? Give one of them, and ask "
            "again with the other one and another --output."
        )
    if args.thought is not None and not args.thought.strip():
        raise CommandError("--thought is empty. To take the thought away give --no-thought.")
    if args.box is not None and args.heatmap is not None:
        raise CommandError("--box and --heatmap both replace the heatmap: give one of them.")
    for option, value, least in (("--max-new-tokens", args.max_new_tokens, 1), ("--leave-out", args.leave_out, 0)):
        if value is not None and value < least:
            raise CommandError(f"{option} must be at least {least}, got {value}.")
    output = Path(args.output)
    if output.exists() and not output.is_dir():
        raise CommandError(f"--output {output} is a file. Name a folder.")


def parse_box(text: str) -> list[float]:
    """Numbers of ``left,top,right,bottom``.

    Raises:
        CommandError: for anything else.
    """
    import math

    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(math.isfinite(value) for value in numbers):
        raise CommandError(
            f"--box {text!r} is no box. Give four numbers with commas between them, left,top,right,bottom in pixels "
            "of the image, such as --box 10,20,110,90."
        )
    return numbers


def read_target(path: Path) -> np.ndarray:
    """A mask from a picture: (H, W) bool, what is brighter than half of the brightest.

    Raises:
        CommandError: for a file that is no picture.
    """
    from coprs_lightning.images import read_image

    try:
        grey = read_image(path, name=f"--target {path}").max(axis=2)
    except ValueError as error:
        raise CommandError(str(error)) from error
    found: np.ndarray = grey > grey.max() / 2
    return found


def _explain(
    args: argparse.Namespace,
    model: object,
    image: np.ndarray,
    box: list[float] | None,
    target: np.ndarray | None,
) -> Explanation:
    """The explanation.

    Raises:
        CommandError: naming the option that does not fit.
    """
    import torch

    from coprs_lightning.explain import explain
    from coprs_lightning.model import CoprsModel

    assert isinstance(model, CoprsModel)
    try:
        return explain(
            model,
            image,
            args.question,
            thoughts=["" if args.thought is None else args.thought],
            box=box,
            heatmap=args.heatmap,
            target=target,
            max_new_tokens=args.max_new_tokens,
            leave_out=args.leave_out,
        )
    except torch.OutOfMemoryError as error:
        raise CommandError(
            f"the memory of {model.policy.device} does not suffice: gradients through the policy need several times "
            "what answering does. Take --device cpu."
        ) from error
    except ValueError as error:
        if is_message(error) and str(error).startswith(("box", "heatmap", "target")):
            raise CommandError(f"--{error}") from error
        raise
