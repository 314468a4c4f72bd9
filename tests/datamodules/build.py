"""Tiny splits of coloured rectangles."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.records import ImageRecord, Target
from datamodules.rle import encode_mask
from datamodules.shard_writer import ShardWriter

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 50, 220)}


def encode_image(image: np.ndarray, image_format: str = "PNG") -> bytes:
    """Encode (H, W, 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, image_format)
    return buffer.getvalue()


def make_sample(
    number: int, *, targets: int = 1, expressions: int = 1, height: int = 24, width: int = 32, image_format: str = "PNG"
) -> tuple[ImageRecord, bytes]:
    """One image on grey with ``targets`` coloured rectangles; position and colour follow from ``number``."""
    rng = np.random.default_rng(number)
    image = np.full((height, width, 3), 128, dtype=np.uint8)
    made = []
    for index in range(targets):
        name, colour = list(COLOURS.items())[(number + index) % len(COLOURS)]
        top, left = int(rng.integers(0, height // 2)), int(rng.integers(0, width // 2))
        mask = np.zeros((height, width), dtype=bool)
        mask[top : top + height // 3, left : left + width // 3] = True
        image[mask] = colour
        made.append(
            Target(
                target_id=str(index),
                expressions=[f"the {name} one, phrase {phrase}" for phrase in range(expressions)],
                masks=[encode_mask(mask)],
                reasoning=f"it is {name}",
                kind="attribute",
            )
        )
    key = f"img{number:05d}"
    record = ImageRecord(
        key=key, image_id=str(number), file_name=f"{key}.png", height=height, width=width, targets=made
    )
    return record, encode_image(image, image_format)


def make_split(
    folder: Path,
    num_images: int,
    *,
    targets: int = 1,
    expressions: int = 1,
    height: int = 24,
    width: int = 32,
    **writer: Any,
) -> Path:
    """Write a split of ``num_images`` rectangles images and return its folder.

    Args:
        folder: where to write.
        num_images: images; keys are ``img00000`` …
        targets: targets an image, ids ``"0"`` …
        expressions: expressions a target.
        height: of every image, pixels.
        width: of every image, pixels.
        writer: options of :class:`ShardWriter` (``num_shards``, ``images_per_shard`` …).
    """
    about = {"name": folder.name, "source": "drawn by the tests", "licence": "CC0-1.0"}
    with ShardWriter(folder, **{**about, **writer}) as shards:
        for number in range(num_images):
            record, image = make_sample(number, targets=targets, expressions=expressions, height=height, width=width)
            shards.write(record, image, "png")
    return folder
