from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from datamodules.jpeg import decode_rgb, read_header


def encoded(mode="RGB", size=(37, 21), **options):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"quality": 30}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}]
)
def test_the_same_pixels_as_pil(options):
    content = encoded(**options)
    pixels = decode_rgb(content)
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(content))))


def test_real_photos_too(realdata):
    photos = sorted(realdata.glob("*/*.jpg")) + sorted(realdata.glob("*/*/*.jpg"))
    assert len(photos) > 5
    for path in photos:
        content = path.read_bytes()
        with Image.open(path) as image:
            assert read_header(content) == (image.height, image.width, 8, 3)
            np.testing.assert_array_equal(decode_rgb(content), np.asarray(image))


@pytest.mark.parametrize(("mode", "components"), [("RGB", 3), ("L", 1), ("CMYK", 4)])
def test_headers(mode, components):
    assert read_header(encoded(mode, exif=b"Exif\0\0" + bytes(300), comment=b"x" * 400)) == (21, 37, 8, components)


def test_no_header():
    content = encoded()
    frame = content.index(b"\xff\xc0")
    pixels = content.index(b"\xff\xda")
    for broken in (
        b"",
        b"\x89PNG",
        content[:2],
        content[:frame],
        content[:2] + b"x" + content[2:],
        b"\xff\xd8\xff\xd9" * 9,
    ):
        assert read_header(broken) is None
    assert read_header(content[:2] + content[pixels:]) is None
    assert read_header(content[:2] + b"\xff\xff\xff\x01" + content[2:]) == (21, 37, 8, 3)  # padding is allowed


def test_broken_pixels():
    content = encoded(size=(300, 300))
    with pytest.raises(RuntimeError):
        decode_rgb(content[: len(content) // 2])
