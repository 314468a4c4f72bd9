"""`coprs segment`: masks for questions about images, with the thoughts that led to them.

One image gives four files in ``--output``. Patterns, folders, several images and ``--input`` give pictures of each and
one ``results.jsonl``; what cannot be answered is named, counted, and listed in ``skipped.jsonl``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from coprs_lightning.cli_errors import is_message, note
from coprs_lightning.commands import CommandError
from coprs_lightning.commands._segment_files import RESULTS, SKIPPED, summary, write_pictures
from coprs_lightning.commands._segment_tasks import Names, Skip, Task, image_tasks, is_single, json_tasks

if TYPE_CHECKING:
    import numpy as np

    from coprs_lightning.inference import Answer
    from coprs_lightning.model import CoprsModel

HELP = "segment images by questions: masks, heatmaps, overlays and the thoughts"

SOME_SKIPPED = 3
"""Exit status where some tasks were answered and others could not be."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See :mod:`coprs_lightning.commands`."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="folder of a run or of `coprs export`, a .ckpt file, or an id on the Hugging Face hub",
    )
    parser.add_argument(
        "--image",
        nargs="+",
        action="extend",
        metavar="FILE",
        help="image of any usual format; several, folders, or patterns in quotes ('photos/**/*.jpg')",
    )
    parser.add_argument("--question", metavar="TEXT", help="what to look for in every --image")
    parser.add_argument(
        "--input",
        metavar="FILE.jsonl",
        help='instead of both: a line {"image": …, "question": …, "id": …} for each; images from the '
        "file's folder, the id may be missing",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results; made where missing")
    parser.add_argument(
        "--layout",
        choices=("flat", "folders"),
        default="flat",
        help="of several results: <id>_mask.png … beside each other, or a folder for each",
    )
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="questions answered at a time")
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="longest completion; by default the checkpoint's"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps …")


def run(args: argparse.Namespace) -> int:
    """See :mod:`coprs_lightning.commands`.

    Returns:
        0, or 3 where some tasks had to be skipped.

    Raises:
        CommandError: for a missing or broken checkpoint, options that do not fit, or where nothing can be answered.
    """
    _check(args)
    if args.input is None and is_single(args.image):
        return _run_one(args)
    return _run_many(args)


def _check(args: argparse.Namespace) -> None:
    if args.input is None:
        if not args.image:
            raise CommandError("there is nothing to segment. Give --image and --question, or --input FILE.jsonl.")
        if args.question is None:
            raise CommandError("--question is missing: what is to be found in the images?")
        if not args.question.strip():
            raise CommandError("--question is empty: there is nothing to look for. Ask for something.")
    elif args.image or args.question is not None:
        raise CommandError("--input names images and questions itself. Leave --image and --question out.")
    for option, value in (("--max-new-tokens", args.max_new_tokens), ("--batch-size", args.batch_size)):
        if value is not None and value < 1:
            raise CommandError(f"{option} must be at least 1, got {value}.")
    output = Path(args.output)
    if output.exists() and not output.is_dir():
        raise CommandError(f"--output {output} is a file. Name a folder.")
    for image in args.image or ():
        if Path(image).is_dir() and Path(image).resolve() == output.resolve():
            raise CommandError(
                f"--output {output} is the folder of the images; masks would lie among them. Name another."
            )


def _load(checkpoint: str, device: str) -> tuple[Path, CoprsModel]:
    from coprs_lightning.checkpoints.loading import choose_device, open_model

    opened = open_model(checkpoint, device=choose_device(device))
    if opened.kind:
        note(f"using the {opened.kind} checkpoint of {checkpoint}: {opened.path}")
    return opened.path, opened.model


# -- one image ---------------------------------------------------------------------------------------------------------


def _run_one(args: argparse.Namespace) -> int:
    from callbacks.files import write_json
    from coprs_lightning.images import read_image

    image = read_image(Path(args.image[0]))
    path, model = _load(args.checkpoint, args.device)
    answer = model.segment(image, args.question, max_new_tokens=args.max_new_tokens)
    _warn(answer)
    output = Path(args.output)
    write_pictures(image, answer, output)
    asked = {"question": args.question, "image": args.image[0], "checkpoint": str(path)}
    write_json(output / "result.json", {**asked, **summary(answer)})
    print(answer.thought or answer.completion)
    note(f"wrote mask.png, heatmap.png, overlay.png and result.json to {output}")
    return 0


def _warn(answer: Answer) -> None:
    if answer.truncated:
        note("warning: the completion reached --max-new-tokens and was cut")
    if not answer.present:
        note("warning: the completion has no concentration token, so there is no heatmap and the mask is empty")
    elif answer.num_tokens > answer.num_slots:
        used = "the last one is" if answer.num_slots == 1 else f"the last {answer.num_slots} are"
        note(f"warning: the completion has {answer.num_tokens} concentration tokens; {used} used")
    if answer.nothing_fits:
        note("the model finds nothing that fits: the mask is empty")


# -- many --------------------------------------------------------------------------------------------------------------


@dataclass
class _Counts:
    """What became of the tasks.

    Attributes:
        answered: written to ``results.jsonl``.
        absent: of those, without a concentration token.
        truncated: of those, cut by the length limit.
        skipped: named already.
    """

    answered: int = 0
    absent: int = 0
    truncated: int = 0
    skipped: list[Skip] = field(default_factory=list)

    def skip(self, skip: Skip) -> None:
        """Name a task that cannot be answered."""
        self.skipped.append(skip)
        note(f"skipped {skip.where}: {skip.reason}")

    def count(self, answer: Answer) -> None:
        """Count an answer."""
        self.answered += 1
        self.absent += not answer.present
        self.truncated += answer.truncated


def _run_many(args: argparse.Namespace) -> int:
    from callbacks.files import append_json_lines

    names = Names((RESULTS, SKIPPED))
    made = json_tasks(Path(args.input), names) if args.input else image_tasks(args.image, args.question, names)
    planned = list(made)
    counts = _Counts()
    for item in planned:
        if isinstance(item, Skip):
            counts.skip(item)
    tasks = [item for item in planned if isinstance(item, Task)]
    if not tasks:
        raise CommandError(f"--input {args.input} holds no line that can be asked, so nothing was written.")
    path, model = _load(args.checkpoint, args.device)
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    for name in (RESULTS, SKIPPED):
        (output / name).unlink(missing_ok=True)  # of an earlier run
    with _progress(len(tasks)) as advance:
        for task, image, answer in _answers(model, tasks, args, counts, advance):
            files = _write(output, args.layout, task, image, answer)
            asked = {"id": task.id, "question": task.question, "image": str(task.image), "checkpoint": str(path)}
            append_json_lines(output / RESULTS, [{**asked, **summary(answer), "files": files}])
            counts.count(answer)
            advance()
    if counts.skipped:
        append_json_lines(output / SKIPPED, [asdict(skip) for skip in counts.skipped])
    return _conclude(counts, output)


def _answers(
    model: CoprsModel, tasks: Iterable[Task], args: argparse.Namespace, counts: _Counts, advance: Callable[[], None]
) -> Iterator[tuple[Task, np.ndarray, Answer]]:
    """Answers of the tasks that can be answered, in their order."""
    from coprs_lightning.images import read_image

    def readable() -> Iterator[tuple[Task, np.ndarray]]:
        for task in tasks:
            try:
                yield task, read_image(task.image)
            except ValueError as error:
                counts.skip(Skip(task.where, str(error)))
                advance()

    remaining = readable()
    while chunk := list(islice(remaining, args.batch_size)):
        for (task, image), answer in zip(chunk, _ask(model, chunk, args), strict=True):
            if isinstance(answer, str):
                counts.skip(Skip(task.where, answer))
                advance()
            else:
                yield task, image, answer


def _ask(model: CoprsModel, chunk: list[tuple[Task, np.ndarray]], args: argparse.Namespace) -> list[Answer | str]:
    """An answer, or why there is none, for each task of a chunk.

    Raises:
        CommandError: where the chunk is too much for the device.
    """
    import torch

    images, questions = [image for _, image in chunk], [task.question for task, _ in chunk]
    try:
        return [*model.segment(images, questions, max_new_tokens=args.max_new_tokens, batch_size=len(chunk))]
    except torch.OutOfMemoryError as error:
        raise CommandError(
            f"--batch-size {args.batch_size} is too much for the memory of {model.policy.device}: lower it."
        ) from error
    except ValueError as error:
        if not is_message(error):
            raise
        if len(chunk) == 1:  # such as a question longer than max_prompt_tokens
            return [str(error)]
    return [answer for one in chunk for answer in _ask(model, [one], args)]


def _write(output: Path, layout: str, task: Task, image: np.ndarray, answer: Answer) -> dict[str, str]:
    if layout == "flat":
        return write_pictures(image, answer, output, f"{task.name}_")
    files = write_pictures(image, answer, output / task.name)
    return {kind: f"{task.name}/{file}" for kind, file in files.items()}


def _conclude(counts: _Counts, output: Path) -> int:
    """Say what was done.

    Raises:
        CommandError: where nothing could be answered.
    """
    if not counts.answered:
        raise CommandError(f"none of {len(counts.skipped)} questions could be answered, see {output / SKIPPED}.")
    note(f"answered {counts.answered} questions, see {output / RESULTS}")
    if counts.truncated:
        note(f"warning: {counts.truncated} completions reached --max-new-tokens and were cut")
    if counts.absent:
        note(f"warning: {counts.absent} completions have no concentration token, so their masks are empty")
    if counts.skipped:
        note(f"skipped {len(counts.skipped)}, see {output / SKIPPED}")
    return SOME_SKIPPED if counts.skipped else 0


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar at a terminal, else a line twice a minute; call the result after each task."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    done, told = 0, time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task("segment", total=total)

        def advance() -> None:
            nonlocal done, told
            done += 1
            bars.advance(bar)
            if not console.is_terminal and time.monotonic() - told > 30:
                told = time.monotonic()
                note(f"{done} of {total} done")

        yield advance
