from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.convert.errors import BadItemError
from datamodules.convert.rows import KeyMaker, PhotoBytes, PhotoFile, RowsJob, RowTarget, convert_rows
from datamodules.convert.rows_masks import CocoMask
from datamodules.record_json import check_key
from tests.datamodules.convert.read_back import mask_of
from tests.datamodules.convert.sources import save_photo

SQUARE = CocoMask([[4, 4, 20, 4, 20, 20, 4, 20]], "a")
SPECK = CocoMask([[4.1, 4.1, 4.2, 4.1, 4.2, 4.2]], "a")
EVERYTHING = CocoMask([[0, 0, 40, 0, 40, 30, 0, 30]], "a")


def target(name: str = "0", masks: Any = (SQUARE,), **changes: Any) -> RowTarget:
    return RowTarget(name, ["what?"], list(masks), **{"items": ["t line 1"], **changes})


def job(photo: Path, *targets: RowTarget, **changes: Any) -> RowsJob:
    return RowsJob("k", "id", "a.jpg", PhotoFile(photo), list(targets), **changes)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return save_photo(tmp_path / "a.jpg")


def test_a_sample(photo: Path) -> None:
    result = convert_rows(
        job(photo, target(ignore=EVERYTHING, kind="k", reasoning="r"), target("1", [SQUARE, EVERYTHING]))
    )
    record = result.record
    assert (record.key, record.image_id, record.file_name, record.height, record.width) == ("k", "id", "a.jpg", 30, 40)
    one, two = record.targets
    assert (one.target_id, one.expressions, one.kind, one.reasoning) == ("0", ["what?"], "k", "r")
    assert mask_of(*one.masks).sum() == 256
    assert mask_of(one.ignore).all()
    assert [mask_of(mask).sum() for mask in two.masks] == [256, 1200]
    assert result.areas == [256 / 1200, 1.0]
    assert result.photo.data == photo.read_bytes()
    assert result.notes == {"targets with ignored pixels": 1, "targets that fill the whole image": 1}
    assert result.problems == []


def test_presence_must_be_as_said(photo: Path) -> None:
    result = convert_rows(job(photo, target("a", [], no_target=True), target("b", [SPECK], no_target=True)))
    assert [item.masks for item in result.record.targets] == [[], []]
    assert result.notes == {"targets that are not in the image": 2}
    result = convert_rows(job(photo, target("a", [SPECK], no_target=None), target("b", no_target=None)))
    assert [len(item.masks) for item in result.record.targets] == [0, 1]
    (problem,) = convert_rows(job(photo, target(no_target=True))).problems
    assert str(problem) == "mask of no target: t line 1: no_target is true, yet its mask is not empty"
    (problem,) = convert_rows(job(photo, target(masks=[SPECK]))).problems
    assert "empty mask: t line 1: no pixel of its mask is set. Give its mask, or say that nothing" in str(problem)


def test_an_instance_without_a_pixel_is_left_out_and_counted(photo: Path) -> None:
    result = convert_rows(job(photo, target(masks=[SPECK, SQUARE])))
    assert len(result.record.targets[0].masks) == 1
    assert result.notes == {"instances without a pixel, left out of their target": 1}


def test_a_broken_part_loses_its_target_alone(photo: Path) -> None:
    broken = CocoMask([[1, 1]], "t line 2, mask")
    result = convert_rows(job(photo, target(), target("1", [SQUARE, broken], items=["t line 1", "t line 2"])))
    assert len(result.record.targets) == 1
    details = [str(problem) for problem in result.problems]
    assert details[0].startswith("bad mask: t line 1: same target as t line 2, mask: part 0 of 1: ")
    assert details[1].startswith("bad mask: t line 2, mask: part 0 of 1: ")


def test_a_broken_photo_loses_all_and_keeps_what_was_known(tmp_path: Path, photo: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(photo.read_bytes()[:-300])
    known = BadItemError("x", "y")
    result = convert_rows(job(tmp_path / "b.jpg", target(), target("1", items=["p", "q"]), problems=[known]))
    assert result.record is None
    assert result.problems[0] is known
    assert [problem.detail.split(":")[0] for problem in result.problems[1:]] == ["t line 1", "p", "q"]
    (problem,) = convert_rows(job(photo, target(), size=(40, 30))).problems
    text = "photo of another size: t line 1: a.jpg: 30 × 40 pixels, the annotation says 40 × 30 (height × width)"
    assert str(problem) == text
    assert convert_rows(job(photo, problems=[known])).problems == [known]
    assert convert_rows(job(photo, target(), size=(30, 40))).record is not None


def test_bytes_of_a_turned_photo(photo: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "JPEG", exif=exif)
    made = RowsJob("k", "id", "a.jpg", PhotoBytes(buffer.getvalue(), "row 3"), [target(masks=[EVERYTHING])])
    result = convert_rows(made)
    assert (result.record.height, result.record.width, result.photo.extension) == (40, 30, "png")
    assert result.notes["photos turned upright (EXIF), stored as PNG"] == 1
    made.photo = PhotoBytes(b"", "row 3")
    assert "broken image: t line 1: row 3: " in str(convert_rows(made).problems[0])


def test_many_instances_do_not_pile_up(photo: Path) -> None:
    result = convert_rows(job(photo, target(masks=[SQUARE] * 500)))
    assert len(result.record.targets[0].masks) == 500
    assert np.isclose(result.areas[0], 256 / 1200)


def test_keys() -> None:
    keys = KeyMaker()
    names = ["a b", "a.b", "a_b", "__x", "", "ünï/1", "x" * 300, "日" * 100, "a\nb", "a_b"]
    made = [keys.make(name) for name in names]
    assert made[:6] == ["a_b", "a_b-2", "a_b-3", "x__x", "x", "ünï_1"]
    assert len(set(made)) == len(names)
    for key in made:
        check_key(key)
