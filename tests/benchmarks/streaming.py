"""How fast shards are streamed: against decoding their JPEGs and nothing else, and against the released code's layout.

    python -m tests.benchmarks.streaming

Examples a second of ``ShardDataModule.train_dataloader()``, up to the collated batch, with 0, 1 and 2 loader workers:

- ``of_decode_limit``: its rate as a share of PIL's, which decodes the same JPEGs, in memory already, in as many
  processes; every question's image is decoded for it. The row ``questions_together`` 4 shows what it saves that
  questions about an image come in one batch.
- ``over_released_layout``: with precomputed features, how many times as fast as a Hugging Face dataset as the released
  code prepares it: images as PNG, masks as nested lists of bools, and one ``.pt`` file of features an image.
- memory of each worker (USS) over a longer epoch, the second of every expression by itself.

All contenders are warm (workers started, files in the system's cache), take turns and read whole epochs; a rate is that
of the median time. The ratios of the last line are the worst over the numbers of workers.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.inputs import positive
from tests.benchmarks.measure import alternate, machine, median_seconds, report
from tests.benchmarks.streaming_contenders import PlainDecoding, Released, Streaming, released_library
from tests.benchmarks.streaming_data import Sample, describe, make_samples, write_released, write_shards
from tests.benchmarks.streaming_memory import children, flatness, memory_over

CPU = torch.device("cpu")
COLUMNS = {
    "workers": ("workers", ""),
    "reading": ("reading", ""),
    "questions_together": ("questions together", ""),
    "decoded": ("images decoded an example", ".2f"),
    "rate": ("examples/s", ".0f"),
    "reference": ("against", ""),
    "reference_rate": ("its examples/s", ".0f"),
    "ratio": ("ratio", ".2f"),
}


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, metavar="DIR", help="crop images from these JPEGs instead of drawing")
    parser.add_argument("--images", type=positive, default=400, help="images of the split (default: %(default)s)")
    parser.add_argument("--size", type=size, default=(480, 640), metavar="H,W", help="of an image (default: 480,640)")
    parser.add_argument("--quality", type=positive, default=91, help="of the JPEGs (default: %(default)s)")
    parser.add_argument("--targets", type=float, default=2.5, help="a mean image's (default: %(default)s)")
    parser.add_argument("--expressions", type=positive, default=3, help="a target's (default: %(default)s)")
    parser.add_argument("--batch-size", type=positive, default=16, help="examples a batch (default: %(default)s)")
    parser.add_argument("--shards", type=positive, default=8, help="shards of the split (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="loader workers (default: 0 1 2)")
    parser.add_argument("--repetitions", type=positive, default=7, help="timed epochs of each (default: %(default)s)")
    parser.add_argument(
        "--released-images", type=positive, default=64, help="images in the released layout (default: %(default)s)"
    )
    parser.add_argument(
        "--released-repetitions", type=positive, default=5, help="timed epochs of it (default: %(default)s)"
    )
    parser.add_argument(
        "--memory-period", type=float, default=0.05, help="seconds between samples of memory (default: %(default)s)"
    )
    return parser.parse_args(words)


def size(text: str) -> tuple[int, int]:
    """Argument type: height and width."""
    parts = text.split(",")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not H,W")
    return positive(parts[0]), positive(parts[1])


def timed(contenders: dict[str, Any], repetitions: int) -> dict[str, float]:
    """Examples a second of each, after an epoch that is not timed."""
    try:
        for contender in contenders.values():
            contender()
        runs = alternate(contenders, repetitions, CPU)
    finally:
        for contender in contenders.values():
            contender.close()
    return {name: found[0][1] / median_seconds(found) for name, found in runs.items()}


def against_decoding(folder: Path, samples: list[Sample], workers: int, options: argparse.Namespace) -> list[Any]:
    """Rows of reading without features."""
    images = [image for record, image in samples for _ in record.targets]
    random.Random(0).shuffle(images)
    plain = PlainDecoding(images, workers)  # forked before torch's threads of the others start
    ours = {
        together: Streaming(folder, workers, batch_size=options.batch_size, questions_together=together)
        for together in (1, 4)
    }
    rates = timed({"plain": plain, **{str(together): stream for together, stream in ours.items()}}, options.repetitions)
    return [
        row(workers, "images", together, rates[str(together)], "PIL decoding", rates["plain"])
        | {"decoded": ours[together].images / len(images)}
        for together in ours
    ]


def against_released(folder: Path, path: Path, workers: int, options: argparse.Namespace) -> dict[str, Any]:
    """Row of reading with features."""
    ours = Streaming(folder, workers, batch_size=options.batch_size)
    theirs = Released(path, workers, options.batch_size)
    rates = timed({"ours": ours, "theirs": theirs}, options.released_repetitions)
    return row(workers, "images and features", 1, rates["ours"], "released layout", rates["theirs"])


def row(
    workers: int, reading: str, together: int, rate: float, reference: str, reference_rate: float
) -> dict[str, Any]:
    """A row of the table."""
    return {
        "workers": workers,
        "reading": reading,
        "questions_together": together,
        "decoded": None,
        "rate": rate,
        "reference": reference,
        "reference_rate": reference_rate,
        "ratio": rate / reference_rate,
    }


def memory(folder: Path, options: argparse.Namespace) -> dict[str, float] | None:
    """How the memory of workers goes over an epoch; ``None`` where no workers are asked for.

    It is the second epoch of every expression: in the first, buffers and copies of the parent's pages come to be.
    """
    if not (workers := max(options.workers)):
        return None
    others = children()
    stream = Streaming(folder, workers, batch_size=options.batch_size, unit="expression")
    try:
        stream()
        return flatness(memory_over(stream, options.memory_period, apart_from=others))
    finally:
        stream.close()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = arguments(argv)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        samples = list(
            make_samples(
                options.images, options.size, options.targets, options.expressions, options.quality, options.photos
            )
        )
        few = samples[: options.released_images]
        split = write_shards(scratch / "split", samples, options.shards, features=False)
        rows = [found for workers in options.workers for found in against_decoding(split, samples, workers, options)]
        used = memory(split, options)
        library = released_library()
        if library is not None:
            featured = write_shards(scratch / "featured", few, options.shards, features=True)
            released = write_released(scratch / "released", few)
            rows += [against_released(featured, released, workers, options) for workers in options.workers]
    report(result_of(options, rows, samples, library, used), rows, COLUMNS)


def result_of(
    options: argparse.Namespace, rows: list[dict[str, Any]], samples: list[Sample], library: str | None, used: Any
) -> dict[str, Any]:
    """The last line."""

    def worst(chosen: Callable[[dict[str, Any]], bool]) -> float | None:
        return min((found["ratio"] for found in rows if chosen(found)), default=None)

    parameters = {
        name: value if isinstance(value, int | float | None) else str(value) for name, value in vars(options).items()
    }
    return {
        "benchmark": "streaming",
        "machine": machine(CPU),
        "parameters": parameters,
        "data": describe(samples),
        "released_layout_by": library,
        "of_decode_limit": worst(lambda r: r["reference"] == "PIL decoding" and r["questions_together"] == 1),
        "of_decode_limit_together": worst(lambda r: r["questions_together"] == 4),
        "over_released_layout": worst(lambda r: r["reference"] == "released layout"),
        "worker_memory_mib": used,
    }


if __name__ == "__main__":
    main()
