"""COCO run-length masks in numpy alone: shards come from elsewhere, and a hostile mask must give an error, not a crash.

A mask is stored as ``{"size": [H, W], "counts": str}``: run lengths over the column-major pixels, zeros first, the
fourth and later ones as differences to the run two before, written in base-32 digits (``chr(48 + digit)``, bit 5 set on
all digits of a number but its last). Strings equal those of pycocotools.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_PIXELS = 100_000_000
"""Largest image that shards may hold: beyond it a header of a few bytes could ask for any amount of memory."""

MAX_INSTANCE_PIXELS = 4 * MAX_PIXELS
"""Most pixels of all instances of a target together, for the same reason."""

_MAX_DIGITS = 7
"""Digits of one number; 7 × 5 bits hold every run of an image of ``MAX_PIXELS`` with its sign."""


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compress a mask.

    Args:
        mask: (H, W) bool.

    Raises:
        ValueError: for another shape or dtype, or an empty image.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_ or mask.size == 0:
        raise ValueError(f"a mask must be a non-empty (H, W) bool array, got {mask.dtype} of shape {mask.shape}.")
    height, width = mask.shape
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], edges, [mask.size]]))
    if len(runs) > 1 and runs[-1] == 0:  # the closing zero run of a mask that ends in ones
        runs = runs[:-1]
    return {"size": [int(height), int(width)], "counts": _write_numbers(_differences(runs))}


def mask_size(rle: Any) -> tuple[int, int]:
    """Height and width that a mask claims, after checking its form (not its runs).

    Raises:
        ValueError: naming what is wrong.
    """
    if not isinstance(rle, dict) or not {"size", "counts"} <= rle.keys():
        raise ValueError(f'a mask must be {{"size": [H, W], "counts": str}}, got {_short(rle)}.')
    size = rle["size"]
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise ValueError(f"mask size must be two positive integers [H, W], got {_short(size)}.")
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"mask size {size[0]} × {size[1]} is above the limit of {MAX_PIXELS} pixels.")
    if not isinstance(rle["counts"], str):
        raise ValueError(
            f"mask counts must be a compressed string, got {type(rle['counts']).__name__}; "
            "write masks with datamodules.rle.encode_mask (pycocotools gives bytes: decode them as ASCII)."
        )
    return int(size[0]), int(size[1])


def mask_runs(rle: Any) -> np.ndarray:
    """Run lengths of a mask, zeros first, checked: none negative, and together exactly height × width.

    Raises:
        ValueError: naming what is wrong; the memory used is bounded by the length of the string.
    """
    size = mask_size(rle)
    return _runs(rle["counts"], *size)


def _runs(counts: str, height: int, width: int) -> np.ndarray:
    runs = _read_numbers(counts)
    # cumulative sums undo the differences: odd runs from the second on, even ones from the third on
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if (runs < 0).any() or (runs > height * width).any():
        raise ValueError(f"mask counts hold a run outside 0…{height * width} ({height} × {width} pixels).")
    if int(runs.sum()) != height * width:
        raise ValueError(f"mask counts add up to {int(runs.sum())} pixels, but the size says {height} × {width}.")
    return runs


def decode_mask(rle: Any) -> np.ndarray:
    """Expand a mask to (H, W) bool, column after column in memory as the runs are.

    Raises:
        ValueError: for a bad size or malformed counts, naming the problem.
    """
    size = mask_size(rle)
    return _expand(rle["counts"], *size)


def _expand(counts: str, height: int, width: int) -> np.ndarray:
    runs = _runs(counts, height, width)
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def instance_masks(rles: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Several instances as (n, H, W) bool; those without a pixel are left out.

    Where they would have more than ``MAX_INSTANCE_PIXELS`` together, the last one holds the union of all that are left.

    Raises:
        ValueError: for a malformed mask, or one of another size than ``height`` × ``width``.
    """
    most = max(1, MAX_INSTANCE_PIXELS // (height * width))
    found: list[np.ndarray] = []
    for rle in rles:
        if mask_size(rle) != (height, width):
            raise ValueError(f"mask of {rle['size'][0]} × {rle['size'][1]} pixels in an image of {height} × {width}.")
        mask = _expand(rle["counts"], height, width)
        if len(found) == most:
            found[-1] |= mask
        elif mask.any():
            found.append(mask)
    if len(found) == 1:  # nearly always: not copied
        return found[0][None]
    return np.stack(found) if found else np.zeros((0, height, width), dtype=bool)


def union_masks(rles: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Union of several instances as (H, W) bool; none gives an empty mask.

    Raises:
        ValueError: for a malformed mask, or one of another size than ``height`` × ``width``.
    """
    return np.asarray(instance_masks(rles, height, width).any(0))


def _differences(runs: np.ndarray) -> np.ndarray:
    numbers = runs.astype(np.int64)
    numbers[3:] -= runs[1:-2]
    return numbers


def _write_numbers(numbers: np.ndarray) -> str:
    """Write signed integers in as few digits each as their two's complement needs."""
    shifts = 5 * np.arange(_MAX_DIGITS)
    digits = (numbers[:, None] >> shifts) & 31
    rest = numbers[:, None] >> (shifts + 5)
    done = np.where(digits & 16, rest == -1, rest == 0)
    last = done.argmax(axis=1)
    place = np.arange(_MAX_DIGITS)[None]
    characters = digits + 48 + np.where(place < last[:, None], 32, 0)
    return characters[place <= last[:, None]].astype(np.uint8).tobytes().decode("ascii")


def _read_numbers(counts: str) -> np.ndarray:
    """Read the signed integers of a counts string as int64."""
    try:
        digits = np.frombuffer(counts.encode("ascii"), dtype=np.uint8) - np.uint8(48)  # below 48 wraps far above 63
    except UnicodeEncodeError:
        raise ValueError(f"mask counts hold characters outside ASCII: {_short(counts)}.") from None
    if len(digits) == 0:
        raise ValueError("mask counts are empty.")
    if digits.max() > 63:
        raise ValueError(f"mask counts hold characters outside '0'…'o': {_short(counts)}.")
    ends = np.flatnonzero(digits < 32)
    if len(ends) == 0 or ends[-1] != len(digits) - 1:
        raise ValueError(f"mask counts break off inside a number: …{counts[-10:]!r}.")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_DIGITS:
        raise ValueError(f"mask counts hold a number of {lengths.max()} digits, more than any image needs.")
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((digits & 31).astype(np.int64) << (5 * places), starts)
    negative = (digits[ends] & 16) != 0
    return numbers - np.where(negative, np.int64(1) << (5 * lengths), 0)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
