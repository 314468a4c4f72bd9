from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco

from datamodules.convert.errors import BadSourceError
from datamodules.convert.hf_columns import ColumnNames
from tests.conftest import REPO
from tests.datamodules.convert.hf_datasets import box, convert, photo, png, save_arrow, save_lines, save_parquet
from tests.datamodules.convert.read_back import mask_of, read_split
from tests.datamodules.convert.sources import save_photo
from tests.datamodules.convert.test_hf_refer import refer_row


def row(number: int, image: int, /, **changes: Any) -> dict[str, Any]:
    cells = {"image": photo(image, f"{image}.png"), "mask": box(number).tolist(), "text": f"q{number}"}
    return cells | changes


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_columns(tmp_path: Path, form: str) -> None:
    save = save_parquet if form == "parquet" else save_arrow
    save(tmp_path / f"in/data/train-00000-of-00001.{form}", [row(0, 0), row(1, 1), row(2, 0)])
    save(tmp_path / f"in/data/validation-00000-of-00001.{form}", [row(3, 2, text="only")])
    plan, summaries = convert(tmp_path / "in", tmp_path / "out")
    assert plan.found == "columns in 2 file(s): 4 rows about 3 images"
    assert list(summaries) == ["train", "val"]
    samples = read_split(tmp_path / "out/train")
    assert {key: [target["expressions"] for target in sample["targets"]] for key, sample in samples.items()} == {
        "0": [["q0"], ["q2"]],
        "1": [["q1"]],
    }
    assert samples["0"]["bytes"] == photo(0)["bytes"]
    for target, number in zip(samples["0"]["targets"], (0, 2), strict=True):
        np.testing.assert_array_equal(mask_of(*target["masks"]), box(number))
    index = json.loads((tmp_path / "out/train/index.json").read_text())
    assert (index["name"], index["source"]) == ("in-train", "rows of Hugging Face form: in")
    about = {"converter": "hf", "form": "columns", "columns": ["image", "mask", "text"], "rasteriser": "pycocotools"}
    assert index["extra"].items() >= about.items()


def test_named_columns(tmp_path: Path) -> None:
    rows = [
        {"picture": photo(0), "segments": png(box(0), 3), "asked": ["a", "b"], "thought": "t", "part": "test"},
        {"picture": photo(1), "segments": None, "asked": ["c"], "thought": None, "part": "val"},
    ]
    path = save_parquet(tmp_path / "rows.parquet", rows)
    names = ColumnNames("picture", "segments", "asked", "thought", "part")
    convert(path, tmp_path / "out", names=names, mask_value=3, empty_is_no_target=True, name="mine")
    (sample,) = read_split(tmp_path / "out/test").values()
    (target,) = sample["targets"]
    assert (target["expressions"], target["reasoning"], mask_of(*target["masks"]).sum()) == (["a", "b"], "t", 54)
    (sample,) = read_split(tmp_path / "out/val").values()
    assert sample["targets"][0]["masks"] == []
    with pytest.raises(
        BadSourceError, match=r"no column .image.\. Name the one with the image by --image-column; there are picture"
    ):
        convert(path, tmp_path / "out2")
    convert(path, tmp_path / "one", names=names, split="mine", empty_is_no_target=True)
    assert len(read_split(tmp_path / "one/mine")) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_unusable_rows_are_named(tmp_path: Path, workers: int) -> None:
    rows = [
        row(0, 0),
        row(1, 0, mask=None),
        row(2, 0, text=" "),
        row(3, 1, mask=[[True, False]]),
        row(4, 2, image={"bytes": b"no picture", "path": None}),
        row(5, 3, image=None),
        row(6, 0, mask=[[False] * 40] * 30),
    ]
    save_parquet(tmp_path / "in/a.parquet", rows)
    with pytest.raises(BadSourceError) as error:
        convert(tmp_path / "in", tmp_path / "out", workers=workers)
    text = str(error.value)
    for part in (
        "in-train: 6 of 7 rows cannot be converted",
        "a.parquet row 1: mask is empty. Leave it out, or pass --empty-is-no-target",
        "a.parquet row 2: column text must be a text",
        "a.parquet row 3, mask: 1 × 2 pixels, its image 30 × 40",
        "a.parquet row 4: a.parquet row 4, image: cannot identify",
        "a.parquet row 5: image must be a picture",
        "a.parquet row 6: no pixel of its mask is set",
    ):
        assert part in text, text
    _, summaries = convert(tmp_path / "in", tmp_path / "out", workers=workers, max_skipped=0.9)
    assert (summaries["train"].images, summaries["train"].targets) == (1, 1)


def test_images_that_are_in_train_and_elsewhere(tmp_path: Path) -> None:
    save_parquet(tmp_path / "in/train.parquet", [row(0, 0), row(1, 1), row(2, 2)])
    save_parquet(tmp_path / "in/test.parquet", [row(3, 1)])
    save_parquet(tmp_path / "other/val.parquet", [row(4, 2)])
    save_parquet(tmp_path / "other/train.parquet", [row(5, 0)])
    _, summaries = convert(tmp_path / "in", tmp_path / "a")
    assert summaries["train"].notes == {"images shared with evaluation splits, removed": 1}
    assert list(read_split(tmp_path / "a/train")) == ["0", "2"]
    convert(tmp_path / "in", tmp_path / "b", held_out=[str(tmp_path / "other")])
    assert list(read_split(tmp_path / "b/train")) == ["0"]
    assert json.loads((tmp_path / "b/train/index.json").read_text())["extra"]["shared_images"] == 2
    _, summaries = convert(tmp_path / "in", tmp_path / "c", keep_leaks=True)
    assert summaries["train"].images == 3
    assert summaries["train"].notes == {"images shared with evaluation splits, kept (--keep-leaks)": 1}
    save_parquet(tmp_path / "in/train.parquet", [row(1, 1)])
    with pytest.raises(
        BadSourceError, match="all 1 images of train are images of evaluation splits too, so none is left"
    ):
        convert(tmp_path / "in", tmp_path / "d")
    convert(tmp_path / "in", tmp_path / "d", splits=["test"])
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["test"]


def refs(folder: Path) -> Path:
    """Rows of refs about images 1…5, of which 1, 2 and 3 have photos."""
    for number in (1, 2, 3):
        save_photo(folder / f"photos/train2014/COCO_train2014_{number:012d}.jpg", seed=number)
    rows = [refer_row(10 + n, 1 + n % 5, ("train", "val")[n % 5 == 1]) for n in range(10)]
    return save_lines(folder / "rows.jsonl", rows)


def test_refs(tmp_path: Path) -> None:
    path = refs(tmp_path)
    with pytest.raises(BadSourceError) as error:
        convert(path, tmp_path / "out", images=[tmp_path / "photos"])
    assert "2 of 5 photos are missing: COCO_train2014_000000000004.jpg, COCO_train2014_000000000005.jpg." in str(
        error.value
    )
    assert f"Searched: {tmp_path / 'photos'}" in str(error.value)
    assert "with --images, or allow some to be left out with --max-missing (now 0)" in str(error.value)
    plan, summaries = convert(path, tmp_path / "out", images=[tmp_path / "photos"], max_missing=0.4)
    assert plan.found == "refer rows in 1 file(s): 10 rows about 5 images"
    assert summaries["train"].notes == {"rows left out because their photo is missing": 4}
    sample = read_split(tmp_path / "out/train")["COCO_train2014_000000000001"]
    assert (sample["image_id"], [target["target_id"] for target in sample["targets"]]) == ("1", ["10", "15"])
    assert sample["targets"][0]["expressions"] == ["thing 10", "left one"]
    assert list(read_split(tmp_path / "out/val")) == ["COCO_train2014_000000000002"]
    convert(path, tmp_path / "val", images=[tmp_path / "photos"], splits=["val"])
    with pytest.raises(BadSourceError, match=r"--splits testA is not in .*rows.jsonl; splits there: train, val"):
        convert(path, tmp_path / "x", splits=["testA"])
    with pytest.raises(
        BadSourceError, match=r"5 of 5 photos are missing: .* Searched: no folder, for --images names none"
    ):
        convert(path, tmp_path / "x", max_missing=1)


def test_refs_of_several_datasets(tmp_path: Path) -> None:
    path = refs(tmp_path)
    save_lines(
        tmp_path / "plus/rows.jsonl", [refer_row(1, 1, "testA"), refer_row(2, 3, "train"), refer_row(3, 77, "val")]
    )
    options: dict[str, Any] = {"images": [tmp_path / "photos"], "max_missing": 0.4}
    _, summaries = convert(path, tmp_path / "out", held_out=[str(tmp_path / "plus")], **options)
    assert summaries["train"].notes["images shared with evaluation splits, removed"] == 1
    assert list(read_split(tmp_path / "out/train")) == ["COCO_train2014_000000000003"]
    save_parquet(tmp_path / "columns/a.parquet", [row(0, 0)])
    with pytest.raises(
        BadSourceError, match=r"--held-out .*columns holds columns, --input refer rows: images of different"
    ):
        convert(path, tmp_path / "x", held_out=[str(tmp_path / "columns")], **options)


def test_options_that_refs_have_no_use_for(tmp_path: Path) -> None:
    path = refs(tmp_path)
    with pytest.raises(BadSourceError, match="--mask-value is about masks of named columns, but these rows are refs"):
        convert(path, tmp_path / "x", mask_value=3)
    with pytest.raises(BadSourceError, match="--empty-is-no-target is about masks of named columns"):
        convert(path, tmp_path / "x", empty_is_no_target=True)


def test_files_that_do_not_go_together(tmp_path: Path) -> None:
    save_parquet(tmp_path / "in/a.parquet", [row(0, 0)])
    save_parquet(tmp_path / "in/b.parquet", [{"image": photo(0), "text": "q"}])
    with pytest.raises(
        BadSourceError, match=r"b.parquet has no column mask, unlike the first file; columns there: image, text"
    ):
        convert(tmp_path / "in", tmp_path / "x")
    (tmp_path / "none/a.jsonl").parent.mkdir()
    (tmp_path / "none/a.jsonl").write_text("\n")
    with pytest.raises(BadSourceError, match=r"has no row in its data files|no column 'image'"):
        convert(tmp_path / "none", tmp_path / "x")
    save_parquet(
        tmp_path / "empty/a.parquet",
        [],
        schema=pa.schema({"image": "binary", "mask": "binary", "text": "string"}),
    )
    with pytest.raises(BadSourceError, match=r"empty has no row in its data files, so there is nothing to convert"):
        convert(tmp_path / "empty", tmp_path / "x")


def test_workers_and_repetition(tmp_path: Path) -> None:
    save_parquet(tmp_path / "in/a.parquet", [row(n, n % 7) for n in range(30)], group=4)
    for workers in (1, 2):
        convert(tmp_path / "in", tmp_path / str(workers), workers=workers)
    assert (tmp_path / "1/train/00000.tar").read_bytes() == (tmp_path / "2/train/00000.tar").read_bytes()
    _, summaries = convert(tmp_path / "in", tmp_path / "1")
    assert any(note.startswith("unchanged") for note in summaries["train"].notes)
    save_parquet(tmp_path / "in/a.parquet", [row(n, n % 7) for n in range(31)], group=4)
    with pytest.raises(FileExistsError):
        convert(tmp_path / "in", tmp_path / "1")


_MEASURE = """
import sys
from pathlib import Path
from tests.datamodules.convert.hf_datasets import convert
convert(sys.argv[1], Path(sys.argv[2]))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def test_nested_masks_of_whole_photos_fit_into_memory(tmp_path: Path) -> None:
    """120 rows of 640 × 480 booleans in one row group, which are 295 MB as lists of Python."""
    buffer = io.BytesIO()
    Image.new("RGB", (640, 480)).save(buffer, "PNG")
    rows = 120
    grid = np.zeros((rows, 480, 640), bool)
    grid[:, 100:200, 100:300] = True
    inner = pa.ListArray.from_arrays(np.arange(0, grid.size + 1, 640, dtype=np.int32), pa.array(grid.ravel()))
    outer = pa.ListArray.from_arrays(np.arange(0, 480 * rows + 1, 480, dtype=np.int32), inner)
    columns = {"image": [{"bytes": buffer.getvalue(), "path": None}] * rows, "mask": outer, "text": ["q"] * rows}
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "in/a.parquet")
    words = [sys.executable, "-c", _MEASURE, str(tmp_path / "in"), str(tmp_path / "out")]
    peak = int(subprocess.run(words, cwd=REPO, capture_output=True, text=True, check=True).stdout) / 1e3
    (sample,) = read_split(tmp_path / "out/train").values()
    assert len(sample["targets"]) == rows
    assert peak < 400, f"{peak:.0f} MB"


@pytest.mark.realdata
def test_real_rows(realdata: Path, tmp_path: Path) -> None:
    path = realdata / "hf_style/refcoco_rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    photos = realdata / "refer/with_images/images/mscoco/images"
    with pytest.raises(BadSourceError, match="4 of 5 photos are missing"):
        convert(path, tmp_path / "out", images=[photos])
    _, summaries = convert(path, tmp_path / "out", images=[photos], max_missing=0.5, splits=["val"])
    assert summaries["val"].notes == {"rows left out because their photo is missing": 2}
    (sample,) = read_split(tmp_path / "out/val").values()
    assert (sample["image_id"], sample["height"], sample["width"]) == ("444010", 480, 640)
    expected = {str(row["ref_id"]): row for row in rows if row["image_id"] == 444010}
    assert len(expected) == len(sample["targets"]) == 5
    for target in sample["targets"]:
        source = expected[target["target_id"]]
        assert target["expressions"] == source["captions"]
        rles = coco.frPyObjects(json.loads(source["raw_anns"])["segmentation"], 480, 640)
        np.testing.assert_array_equal(mask_of(*target["masks"]), coco.decode(coco.merge(rles)) > 0)


@pytest.mark.realdata
def test_real_rows_as_the_refer_layout_gives_them(realdata: Path, tmp_path: Path) -> None:
    from datamodules.convert.refer import ReferOptions, plan_refer
    from datamodules.convert.refer_images import convert_refer
    from datamodules.convert.split import WriteOptions, write_splits

    root = realdata / "refer/with_images"
    plans = plan_refer(ReferOptions(root, "refcoco", "unc"), tmp_path / "refer")
    list(write_splits(plans, convert_refer, WriteOptions("none"), lambda name, total: lambda: None))
    shutil.copytree(realdata / "hf_style", tmp_path / "in")
    options: dict[str, Any] = {
        "images": [root / "images/mscoco/images/train2014"],
        "max_missing": 0.5,
        "splits": ["val"],
    }
    convert(tmp_path / "in", tmp_path / "hf", **options)
    (one,), (two,) = (read_split(tmp_path / place).values() for place in ("refer/refcoco_unc/val", "hf/val"))
    for sample in (one, two):
        sample["targets"].sort(key=lambda target: target["target_id"])
    # rows tell nothing of the other objects of a photo
    assert all(type(target.pop("distractors")) is int for target in one["targets"])
    assert all(target.pop("distractors") is None for target in two["targets"])
    assert one["targets"] == two["targets"]
    assert one["bytes"] == two["bytes"]
