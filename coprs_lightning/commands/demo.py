"""`coprs demo`: ask a model about images in the browser."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coprs_lightning.cli_errors import note
from coprs_lightning.commands import CommandError

HELP = "ask a model about images in the browser"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See :mod:`coprs_lightning.commands`."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="folder of a run or of `coprs export`, a .ckpt file, or an id on the Hugging Face hub",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; the default is this machine alone")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on; 0 takes a free one")
    parser.add_argument(
        "--examples",
        metavar="DIR",
        help='images to choose from; with examples.jsonl in it ({"image": …, "question": …} a line) also questions',
    )
    parser.add_argument("--max-upload-mb", type=float, default=10, metavar="MB", help="largest image file")
    parser.add_argument("--max-megapixels", type=float, default=25, metavar="MP", help="largest image")
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="longest completion; by default the checkpoint's"
    )
    parser.add_argument(
        "--share",
        choices=("off", "on"),
        default="off",
        help="on: let Gradio open a public tunnel; everybody with the link can ask the model",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps …")


def run(args: argparse.Namespace) -> int:
    """See :mod:`coprs_lightning.commands`.

    Raises:
        CommandError: for a missing checkpoint, options that do not fit, or a port that cannot be had.
    """
    from coprs_lightning.checkpoints import load_model
    from coprs_lightning.demo.server import DemoOptions, check_installed, is_loopback, serving

    _check(args)
    check_installed()
    examples = read_examples(Path(args.examples)) if args.examples else []
    model = load_model(args.checkpoint, args.device)
    options = DemoOptions(
        host=args.host,
        port=args.port,
        max_upload=int(args.max_upload_mb * 2**20),
        max_pixels=int(args.max_megapixels * 1e6),
        max_new_tokens=args.max_new_tokens,
        share=args.share == "on",
    )
    if not is_loopback(args.host):
        note(f"warning: everybody who reaches {args.host}:{args.port} can ask the model; there is no password")
    name = _shown(args.checkpoint)
    with _until_asked_to_end() as ended, serving(model, options, name=name, examples=examples) as running:
        note(f"the demo is at {running.url} (Ctrl-C ends it)")
        if running.public_url:
            note(f"and for everybody with this link at {running.public_url}")
        ended.wait()
    note("the demo has ended")
    return 0


@contextmanager
def _until_asked_to_end() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, or a request to end the process: uploads are deleted then too."""
    ended = threading.Event()

    def end(*_: object) -> None:
        ended.set()

    # Ctrl-C too: it is ignored where a script started the command in the background
    before = {kind: signal.signal(kind, end) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _check(args: argparse.Namespace) -> None:
    for option, value in (
        ("--max-upload-mb", args.max_upload_mb),
        ("--max-megapixels", args.max_megapixels),
        ("--max-new-tokens", args.max_new_tokens),
    ):
        if value is not None and not value > 0:
            raise CommandError(f"{option} must be above 0, got {value}.")
    if not 0 <= args.port <= 65535:
        raise CommandError(f"--port must be in 0 … 65535, got {args.port}.")


def read_examples(folder: Path) -> list[tuple[Path, str]]:
    """Images and questions of a folder.

    Args:
        folder: with ``examples.jsonl``, its lines; without, its images without questions.

    Raises:
        CommandError: for a folder without images, or a line or image that cannot be read.
    """
    from coprs_lightning.commands._segment_tasks import Names, Skip, image_tasks, json_tasks
    from coprs_lightning.images import read_image

    if not folder.is_dir():
        raise CommandError(f"--examples {folder} is no folder.")
    file = folder / "examples.jsonl"
    tasks = json_tasks(file, Names()) if file.is_file() else image_tasks([str(folder)], "", Names())
    found = []
    for task in tasks:
        if isinstance(task, Skip):
            raise CommandError(f"--examples: {task.where}: {task.reason}.")
        try:
            read_image(task.image)
        except ValueError as error:
            raise CommandError(f"--examples: {error}") from error
        found.append((task.image, task.question))
    return found


def _shown(checkpoint: str) -> str:
    """What visitors see of the model's place: not the folders of this machine."""
    path = Path(checkpoint)
    return path.resolve().name if path.exists() else checkpoint
