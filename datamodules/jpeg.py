"""JPEG pixels: what the header claims is read before anything is decoded, and decoding makes no copies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


class JpegHeader(NamedTuple):
    """What a JPEG says of itself.

    Attributes:
        height: pixels.
        width: pixels.
        precision: bits a sample.
        components: 3 for colour, 1 for grey, 4 for CMYK.
    """

    height: int
    width: int
    precision: int
    components: int


def read_header(content: bytes | memoryview) -> JpegHeader | None:
    """Find the frame's header among the segments; ``None`` where there is none to be found."""
    if content[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 9 < len(content):
        if content[place] != 0xFF:
            return None
        marker = content[place + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:  # padding, or a marker that stands alone
            place += 1 if marker == 0xFF else 2
            continue
        if marker in _START_OF_FRAME:
            height, width = (int.from_bytes(content[place + at : place + at + 2], "big") for at in (5, 7))
            return JpegHeader(height, width, content[place + 4], content[place + 9])
        if marker in (0xD9, 0xDA):  # pixels, or the end, without a header before
            return None
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return None


def decode_rgb(content: bytes | memoryview) -> np.ndarray:
    """(H, W, 3) uint8; the same pixels as PIL's, without the three copies that it takes to get them out of it.

    Raises:
        RuntimeError: a broken image.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
    return pixels.permute(1, 2, 0).numpy()
