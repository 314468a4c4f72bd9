"""What the streaming benchmark reads: photo-like JPEGs with targets, as shards and in the released code's layout."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from datamodules.records import ImageRecord, Target
from datamodules.rle import decode_mask, encode_mask
from datamodules.shard_writer import ShardWriter

FEATURES = (256, 64, 64)
"""Shape of the features of SAM's image encoder, float16: 2 MiB an image."""

Sample = tuple[ImageRecord, bytes]

_OCTAVES = ((4, 70), (10, 45), (32, 25), (96, 16), (240, 9))  # grid cells across the image, and their contrast
_WORDS = ("the dark shape", "what lies behind the others", "blotch beside the bright spot", "roundish patch in front")


def _noise_photo(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise of many scales, as photos have it, and blotches in front; (H, W, 3) uint8."""
    image = np.full((height, width, 3), 128, np.float32)
    for cells, contrast in _OCTAVES:
        grid = rng.normal(0, 1, (max(2, cells * height // width), cells, 3)).astype(np.float32)
        image += contrast * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(8):
        blotch = _blotch(rng, height, width)
        image[blotch] = image[blotch] / 2 + rng.uniform(0, 160, 3)
    image += rng.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def _blotch(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A shape with a ragged border, so that its runs are as many as those of an outlined object; (H, W) bool."""
    rows, columns = np.ogrid[:height, :width]
    y, x = rng.uniform(0.1, 0.9, 2) * (height, width)
    tall, wide = rng.uniform(0.06, 0.25, 2) * (height, width)
    ragged = cv2.resize(rng.uniform(0.6, 1.4, (9, 12)), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(((rows - y) / tall) ** 2 + ((columns - x) / wide) ** 2 < ragged)


def _crop(rng: np.random.Generator, photo: Image.Image, height: int, width: int) -> np.ndarray:
    """A random part of a photo, as large as asked; (H, W, 3) uint8."""
    scale = rng.uniform(0.6, 1) * min(photo.width / width, photo.height / height)
    left = rng.uniform(0, photo.width - scale * width)
    top = rng.uniform(0, photo.height - scale * height)
    box = (left, top, left + scale * width, top + scale * height)
    return np.asarray(photo.resize((width, height), Image.Resampling.LANCZOS, box=box))


def make_samples(
    images: int, size: tuple[int, int], targets: float, expressions: int, quality: int, photos: Path | None
) -> Iterator[Sample]:
    """Images with targets, the same for the same arguments.

    Args:
        images: how many.
        size: height and width, pixels.
        targets: mean number an image.
        expressions: of every target.
        quality: of the JPEGs.
        photos: folder of photos to crop from; ``None`` draws noise.

    Raises:
        FileNotFoundError: the folder holds no JPEG.
    """
    height, width = size
    sources = [] if photos is None else [Image.open(path).convert("RGB") for path in sorted(photos.glob("*.jp*g"))]
    if photos is not None and not sources:
        raise FileNotFoundError(f"{photos} holds no *.jpg; name a folder of photos, or leave --photos out.")
    for number in range(images):
        rng = np.random.default_rng(number)
        pixels = (
            _crop(rng, sources[number % len(sources)], height, width) if sources else _noise_photo(rng, height, width)
        )
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        count = max(1, int((number + 1) * targets) - int(number * targets))
        found = [
            Target(
                target_id=str(place),
                expressions=[f"{_WORDS[(place + turn) % len(_WORDS)]} {turn}" for turn in range(expressions)],
                masks=[encode_mask(_blotch(rng, height, width))],
            )
            for place in range(count)
        ]
        key = f"img{number:06d}"
        yield ImageRecord(key, str(number), f"{key}.jpg", height, width, found), buffer.getvalue()


def write_shards(folder: Path, samples: list[Sample], shards: int, *, features: bool) -> Path:
    """A split of the samples, with feature maps or without; returns its folder."""
    about: dict[str, Any] = {"name": folder.name, "source": "made by tests.benchmarks.streaming", "licence": "CC0-1.0"}
    if features:
        about["features"] = {"backbone": "random numbers of the shape that SAM's encoder gives"}
    with ShardWriter(folder, **about, num_shards=min(shards, len(samples))) as writer:
        for number, (record, image) in enumerate(samples):
            writer.write(record, image, "jpg", features=_features(number) if features else None)
    return folder


def write_released(folder: Path, samples: list[Sample]) -> Path:
    """The same samples in the released code's layout, a row a target.

    Its preparation hands pixels over, which ``datasets`` stores as PNG; the mask is nested lists of bools; beside it
    lies the mask in the geometry of a 256 × 256 frame, as float16; ``embeddings/<image>.pt`` holds an image's features.
    ``datasets`` saves the rows where it is installed, else ``pyarrow`` writes the same columns.

    Returns:
        folder of the dataset, or the Arrow file.
    """
    (folder / "embeddings").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number, (record, encoded) in enumerate(samples):
        path = folder / "embeddings" / f"{record.image_id}.pt"
        torch.save(torch.from_numpy(_features(number)), path)
        buffer = io.BytesIO()
        Image.open(io.BytesIO(encoded)).save(buffer, "PNG")
        for target in record.targets:
            mask = decode_mask(target.masks[0])
            rows.append(
                {
                    "image": {"bytes": buffer.getvalue(), "path": None},
                    "mask": mask.tolist(),
                    "mask_float_256": _framed(mask),
                    "text": target.expressions,
                    "image_id": record.image_id,
                    "original_hw": [record.height, record.width],
                    "embed_path": str(path),
                }
            )
    return _save_rows(folder, rows)


def _framed(mask: np.ndarray, side: int = 256) -> np.ndarray:
    """The mask in a square frame, resized so that its longer side fits; (side, side) float16."""
    height, width = (round(edge * side / max(mask.shape)) for edge in mask.shape)
    framed = np.zeros((side, side), np.float16)
    framed[:height, :width] = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return framed


def _save_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    try:
        import datasets
    except ImportError:
        return _save_arrow(folder / "rows.arrow", rows)
    columns = datasets.Features(
        {
            "image": datasets.Image(),
            "mask": datasets.Sequence(datasets.Sequence(datasets.Value("bool"))),
            "mask_float_256": datasets.Array2D(shape=(256, 256), dtype="float16"),
            "text": datasets.Sequence(datasets.Value("string")),
            "image_id": datasets.Value("string"),
            "original_hw": datasets.Sequence(datasets.Value("int32"), length=2),
            "embed_path": datasets.Value("string"),
        }
    )
    saved = datasets.Dataset.from_list(rows, features=columns)
    datasets.disable_progress_bars()
    saved.save_to_disk(str(folder / "rows"))
    return folder / "rows"


def _save_arrow(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow

    table = pyarrow.Table.from_pylist([{**row, "mask_float_256": row["mask_float_256"].tolist()} for row in rows])
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=16)
    return path


def _features(number: int) -> np.ndarray:
    rng = np.random.default_rng([number, 1])
    return rng.standard_normal(FEATURES, dtype=np.float32).astype(np.float16)


def describe(samples: list[Sample]) -> dict[str, Any]:
    """What the samples come to, for the report."""
    sizes = [len(image) for _, image in samples]
    targets = [target for record, _ in samples for target in record.targets]
    return {
        "images": len(samples),
        "targets": len(targets),
        "expressions": sum(len(target.expressions) for target in targets),
        "jpeg_kb": round(float(np.mean(sizes)) / 1e3, 1),
        "rle_kb": round(float(np.mean([len(json.dumps(target.masks)) for target in targets])) / 1e3, 2),
    }
