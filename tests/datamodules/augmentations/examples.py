"""An example whose pixels tell where they came from."""

from __future__ import annotations

from typing import Any

import numpy as np

from coprs_lightning.structures import Example


def make_example(question: str = "the dog", *, height: int = 40, width: int = 60, **changes: Any) -> Example:
    """Red grows to the right and green downwards; the target and the ignored pixels are boxes."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width) * 255 // width
    image[..., 1] = (np.arange(height) * 255 // height)[:, None]
    image[..., 2] = 40
    mask, ignore = np.zeros((2, height, width), bool)
    mask[10:20, 5:25] = True
    ignore[30:35, 40:50] = True
    return Example(**{"key": "a/0", "image": image, "question": question, "mask": mask, "ignore": ignore, **changes})
