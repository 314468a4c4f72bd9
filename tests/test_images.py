"""Images of every kind as pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coprs_lightning.images import as_pixels, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_paths_pillow_arrays_and_tensors_are_the_same_image(photo: Path) -> None:
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    for image in (photo, str(photo), Image.open(photo), PIXELS, tensor):
        assert torch.equal(as_pixels(image), tensor)


def test_mirrored_arrays_are_taken() -> None:
    assert torch.equal(as_pixels(PIXELS[:, ::-1]), as_pixels(PIXELS).flip(-1))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 4, 4, dtype=torch.uint8), r"tensor is \(3, H, W\) uint8 RGB, got \(1, 4, 4\) torch\.uint8"),
        (torch.zeros(3, 4, 4), r"got \(3, 4, 4\) torch\.float32"),
        (np.zeros((4, 4), dtype=np.uint8), r"array is \(H, W, 3\) uint8 RGB, got \(4, 4\) uint8"),
        (np.zeros((4, 4, 3)), r"got \(4, 4, 3\) float64"),
        (np.zeros((0, 4, 3), dtype=np.uint8), r"4 × 0 pixels: there is nothing to see"),
        (torch.zeros(3, 1, 201, dtype=torch.uint8), r"201 × 1 pixels: more than 200 times as long as wide"),
        (Image.new("L", (1, 201)), r"1 × 201 pixels: more than 200 times"),
        (b"PNG", r"bytes is no image\. Give a path"),
        (None, r"NoneType is no image"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_pixels(image)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16", "I", "F"])
def test_images_of_every_mode_are_read(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.tif" if mode in ("CMYK", "F", "I") else "image.png")
    if mode == "I;16":
        Image.fromarray(np.full((4, 6), 65535 // 2, dtype=np.uint16)).save(path)
    elif mode == "I":
        Image.fromarray(np.full((4, 6), 65535 // 2, dtype=np.int32)).save(path)
    elif mode == "F":
        Image.fromarray(np.full((4, 6), 127.0, dtype=np.float32)).save(path)
    else:
        grey = Image.new("RGB", (6, 4), (127, 127, 127))
        grey.convert(mode, dither=Image.Dither.NONE, palette=Image.Palette.ADAPTIVE).save(path)
    image = read_image(path)
    assert image.shape == (4, 6, 3)
    assert image.dtype == np.uint8
    expected = 0 if mode == "1" else 127
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_a_dark_16_bit_image_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 200, dtype=np.uint16)).save(tmp_path / "dark.png")
    assert read_image(tmp_path / "dark.png").max() == 1


def test_transparency_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 255).all()
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([255, 0, 0])
    palette.save(tmp_path / "b.png", transparency=0)
    assert (read_image(tmp_path / "b.png") == 255).all()


def test_images_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 4), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise to see it upright
    image.save(tmp_path / "a.png", exif=exif)
    turned = read_image(tmp_path / "a.png")
    assert turned.shape == (6, 4, 3)
    assert turned[0, 3].tolist() == [255, 255, 255]


def test_broken_images_are_refused(tmp_path: Path, photo: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no image .*nothing\.png"):
        read_image(tmp_path / "nothing.png")
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png is no image in a format that Pillow knows"):
        read_image(text)
    cut = tmp_path / "cut.png"
    cut.write_bytes(photo.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"cut\.png cannot be read \(broken or cut short\)"):
        read_image(cut)
    Image.new("RGB", (402, 2)).save(tmp_path / "strip.png")
    with pytest.raises(ValueError, match=r"402 × 2 pixels: more than 200 times as long as wide"):
        read_image(tmp_path / "strip.png")


def test_image_bombs_are_refused(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="exceeds limit"):
        read_image(photo)
