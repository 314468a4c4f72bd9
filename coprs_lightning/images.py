"""Images of any kind as the pixels that the model sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

ImageLike: TypeAlias = "Tensor | np.ndarray | PILImage | str | Path"
"""What :func:`as_pixels` takes."""

MAX_ASPECT = 200
"""Times that an image may be longer than wide; the vision towers refuse longer strips."""


def as_pixels(image: ImageLike) -> Tensor:
    """An image of any kind as (3, H, W) uint8 RGB.

    Args:
        image: tensor (3, H, W) uint8, array (H, W, 3) uint8, Pillow image, or the path of a file.

    Raises:
        ValueError: for anything else, a broken file, or a strip that no vision tower takes.
    """
    if isinstance(image, str | Path):
        return _tensor(read_image(Path(image)))
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
            raise ValueError(
                f"an image as a tensor is (3, H, W) uint8 RGB, got {tuple(image.shape)} {image.dtype}. Convert it, or "
                "give a Pillow image or a path."
            )
        check_size(int(image.shape[2]), int(image.shape[1]), "the image")
        return image
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"an image as an array is (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}. Convert it, or give a "
                "Pillow image or a path."
            )
        check_size(image.shape[1], image.shape[0], "the image")
        return _tensor(image)
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise ValueError(
            f"{type(image).__name__} is no image. Give a path, a Pillow image, an array (H, W, 3) or a tensor "
            "(3, H, W), both uint8 RGB."
        )
    check_size(*image.size, "the image")
    return _tensor(rgb(image))


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


class SizeError(ValueError):
    """An image of a size that is not taken."""


def check_size(width: int, height: int, name: str, max_pixels: int | None = None) -> None:
    """Refuse what no vision tower takes, and what is too large.

    Raises:
        SizeError: for an image without pixels, a long strip, or too many pixels.
    """
    if min(width, height) < 1:
        raise SizeError(f"{name} has {width} × {height} pixels: there is nothing to see.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise SizeError(f"{name} has {width} × {height} pixels: more than {MAX_ASPECT} times as long as wide. Crop it.")
    if max_pixels is not None and width * height > max_pixels:
        raise SizeError(
            f"{name} has {width} × {height} pixels, more than the {max_pixels / 1e6:g} million allowed. Scale it down."
        )


def read_image(path: Path, *, name: str | None = None, max_pixels: int | None = None) -> np.ndarray:
    """Read an image as a person sees it: turned by its EXIF orientation, transparency on white, 16 bit as 8.

    Args:
        path: the file.
        name: what messages call it; ``None`` takes the path.
        max_pixels: larger images are refused before they are decoded.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: for a file that is missing or no image, too large, or a strip that no vision tower takes.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = str(path) if name is None else name
    if not path.is_file():
        raise ValueError(f"there is no image {name}.")
    try:
        with Image.open(path) as opened:
            check_size(*opened.size, f"image {name}", max_pixels)
            image = ImageOps.exif_transpose(opened)
            image.load()
    except SizeError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is no image in a format that Pillow knows.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image {name} cannot be read (broken or cut short): {error}") from error
    return rgb(image)


def rgb(image: PILImage) -> np.ndarray:
    """Any Pillow mode as (H, W, 3) uint8."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        if image.mode.startswith("I;16") or values.max(initial=0) > 255:  # 16 bit: 65 535 is white
            values = values / 257
        image = Image.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.array(image.convert("RGB"))
