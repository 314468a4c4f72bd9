from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datamodules.convert import photos
from datamodules.convert.errors import BadItemError
from datamodules.convert.photos import read_photo
from tests.datamodules.convert.sources import save_photo


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".png", ".webp"])
def test_bytes_are_kept(tmp_path: Path, suffix: str) -> None:
    path = save_photo(tmp_path / f"a{suffix}", height=20, width=50)
    photo = read_photo(path)
    assert photo.data == path.read_bytes()
    assert (photo.height, photo.width, photo.turned) == (20, 50, False)
    assert photo.extension == suffix.lower()[1:].replace("jpeg", "jpg")


def test_the_content_decides_on_the_extension(tmp_path: Path) -> None:
    path = save_photo(tmp_path / "a.png")
    path = path.rename(tmp_path / "a.jpg")
    assert read_photo(path).extension == "png"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_that_exif_turns_is_stored_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save_photo(tmp_path / "a.jpg", height=20, width=50, exif=exif)
    photo = read_photo(path)
    seen = cv2.imread(str(path))  # applies EXIF, as the original readers do
    assert (photo.height, photo.width) == seen.shape[:2]
    assert photo.turned == (orientation != 1)
    stored = np.asarray(Image.open(io.BytesIO(photo.data)).convert("RGB"))
    assert np.abs(stored[..., ::-1].astype(int) - seen).max() <= 8  # two JPEG decoders
    assert (photo.data == path.read_bytes()) == (orientation == 1)


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpeg(tmp_path: Path, progressive: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(image).save(path, progressive=progressive)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(BadItemError, match=r"broken image: .*a\.jpg: .*truncated") as error:
        read_photo(path)
    assert error.value.reason == "broken image"


def test_files_that_are_no_photos(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(BadItemError, match=r"a\.jpg: cannot identify image"):
        read_photo(tmp_path / "a.jpg")
    with pytest.raises(BadItemError, match="No such file"):
        read_photo(tmp_path / "b.jpg")
    Image.new("L", (4, 4)).save(tmp_path / "c.gif")
    with pytest.raises(BadItemError, match=r"c\.gif: cannot identify image"):
        read_photo(tmp_path / "c.gif")


def test_more_than_8_bits(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(BadItemError, match=r"mode I;16 has more than 8 bits a channel"):
        read_photo(tmp_path / "a.png")


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "MAX_PIXELS", 100)
    with pytest.raises(BadItemError, match="30 × 40 pixels, above the limit of 100"):
        read_photo(save_photo(tmp_path / "a.jpg"))
