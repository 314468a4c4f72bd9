"""Reads the photos of a source: decoded once to be sure that they are whole, then handed on as the bytes they are."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from datamodules.convert.errors import BadItemError
from datamodules.rle import MAX_PIXELS
from datamodules.shard_writer import IMAGE_FORMATS, UNSUPPORTED_MODES

BROKEN = "broken image"
_ORIENTATION = 0x0112
_EXTENSIONS = {name: extension for extension, name in IMAGE_FORMATS.items()} | {"MPO": "jpg"}


@dataclass(frozen=True)
class Photo:
    """An encoded image.

    Attributes:
        data: the encoded bytes.
        extension: ``jpg``, ``png`` or ``webp``, from the content and not from the file's name.
        height: pixels.
        width: pixels.
        turned: the file's EXIF tag turned or mirrored it.
    """

    data: bytes
    extension: str
    height: int
    width: int
    turned: bool = False


def read_photo(path: Path) -> Photo:
    """Read one photo and decode it to its end.

    The bytes are those of the file, except for a photo that its EXIF tag turns or mirrors. Annotations were drawn on
    the upright picture while shards are read without EXIF, so such a photo is stored upright, as a PNG of the same
    pixels.

    Raises:
        BadItemError: unreadable, truncated, too large, or of a kind that shards do not hold; names the file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadItemError(BROKEN, f"{path}: {error}") from error
    return check_photo(data, str(path))


def check_photo(data: bytes, name: str) -> Photo:
    """Check encoded bytes as :func:`read_photo` does those of a file.

    Raises:
        BadItemError: as there, with ``name`` in place of the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about EXIF and palettes; the size is limited below
            with Image.open(io.BytesIO(data), formats=[*IMAGE_FORMATS.values()]) as image:
                return _checked(image, data, name)
    except BadItemError:
        raise
    except Exception as error:  # decoders of broken files raise OSError, SyntaxError, struct.error, zlib.error …
        raise BadItemError(BROKEN, f"{name}: {error}") from error


def _checked(image: Image.Image, data: bytes, name: str) -> Photo:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadItemError(BROKEN, f"{name}: {height} × {width} pixels, above the limit of {MAX_PIXELS}")
    if image.mode in UNSUPPORTED_MODES:
        raise BadItemError(BROKEN, f"{name}: mode {image.mode} has more than 8 bits a channel")
    if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
        upright = ImageOps.exif_transpose(image).convert("RGB")
        buffer = io.BytesIO()
        upright.save(buffer, "PNG")
        return Photo(buffer.getvalue(), "png", upright.height, upright.width, turned=True)
    extension = _EXTENSIONS[str(image.format)]
    image.draft(image.mode, (width // 8, height // 8))  # a JPEG is still read to its end, in a third of the time
    image.load()
    return Photo(data, extension, height, width)
