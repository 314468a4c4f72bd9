"""ReasonSeg as parquet rows, written here by pyarrow in the columns and types of the released copies."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from datamodules.convert.errors import BadSourceError
from datamodules.convert.reasonseg import convert_reasonseg, plan_reasonseg
from datamodules.convert.reasonseg_rows import holds_rows, plan_reasonseg_rows
from datamodules.convert.rows import convert_rows
from datamodules.convert.split import MADE_FROM, UNCHANGED, SplitSummary, WriteOptions, write_splits
from tests.datamodules.convert.read_back import mask_of, read_split
from tests.datamodules.convert.sources import save_lisa

pyarrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow: pip install '.[parquet]'")


def photo(seed: int, height: int = 30, width: int = 40) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def mask(seed: int, height: int = 30, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) > 0.7


def row(seed: int, **changes: Any) -> dict[str, Any]:
    made = {
        "image": {"bytes": photo(seed), "path": f"{seed}_o.jpg"},
        "mask": mask(seed).tolist(),
        "text": f"what is {seed}?",
        "image_id": f"{seed}_o",
        "ann_id": f"{seed}_o",
        "img_height": 30,
        "img_width": 40,
    }
    return {name: value for name, value in (made | changes).items() if value is not ...}


def save_rows(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def convert(
    source: Path, output: Path, *, workers: int = 1, max_skipped: float = 0.0, **options: Any
) -> list[SplitSummary]:
    plans = plan_reasonseg_rows(source, output, **options)
    write = WriteOptions("none", workers=workers, max_skipped=max_skipped)
    return list(write_splits(plans, convert_rows, write, lambda name, total: lambda: None))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("plain", [False, True])
def test_rows(tmp_path: Path, plain: bool, workers: int) -> None:
    """Pictures as ``{bytes, path}`` or as bytes; several row groups in two files."""
    rows = [row(seed, **({"image": photo(seed)} if plain else {})) for seed in range(7)]
    folder = tmp_path / "ReasonSeg_val"
    save_rows(folder / "data/test-00000-of-00002.parquet", rows[:5], row_group_size=2)
    save_rows(folder / "data/test-00001-of-00002.parquet", rows[5:])
    (summary,) = convert(folder, tmp_path / "out", workers=workers)
    assert (summary.name, summary.images, summary.targets, summary.expressions) == ("reasonseg-val", 7, 7, 7)
    samples = read_split(tmp_path / "out/val")
    assert set(samples) == {f"{seed}_o" for seed in range(7)}
    for seed in range(7):
        sample = samples[f"{seed}_o"]
        (target,) = sample["targets"]
        assert sample["bytes"] == photo(seed)
        assert (sample["image_id"], sample["height"], sample["width"]) == (f"{seed}_o", 30, 40)
        assert (target["target_id"], target["expressions"], target["ignore"]) == ("0", [f"what is {seed}?"], None)
        np.testing.assert_array_equal(mask_of(*target["masks"]), mask(seed))
    index = json.loads((tmp_path / "out/val/index.json").read_text())
    assert len(index["extra"].pop(MADE_FROM)) == 64
    assert index["extra"] == {
        "converter": "reasonseg",
        "form": "ReasonSeg rows",
        "ignore_as": "target",
        "texts": "first",
        "rasteriser": "opencv",
    }


def test_the_same_again_changes_nothing(tmp_path: Path) -> None:
    path = save_rows(tmp_path / "ReasonSeg_test.parquet", [row(1)])
    convert(path, tmp_path / "out")
    (again,) = convert(path, tmp_path / "out", workers=2)
    assert again.notes == {UNCHANGED: 1}
    save_rows(path, [row(1), row(2)])
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        ("ReasonSeg_val/data/test-0.parquet", None, "val"),
        ("datasets--Ricky06662--ReasonSeg_test/snapshots/abc/data/test-0.parquet", None, "test"),
        ("rows/val-0.parquet", None, "val"),
        ("rows/test-0.parquet", "val", "val"),
        ("rows/0.parquet", "mine", "mine"),
        ("ReasonSeg_val/data/test-0.parquet", "mine", "mine"),
    ],
)
def test_which_split(tmp_path: Path, name: str, split: str | None, expected: str) -> None:
    path = save_rows(tmp_path / name, [row(1)])
    for source in (path, path.parent):
        (plan,) = plan_reasonseg_rows(source, tmp_path / "out", split=split)
        assert (plan.name, plan.output) == (f"reasonseg-{expected}", tmp_path / "out" / expected)


def test_several_splits(tmp_path: Path) -> None:
    for seed, name in enumerate(("val", "test")):
        save_rows(tmp_path / f"ReasonSeg_{name}/data/test-0.parquet", [row(seed)])
    assert [summary.name for summary in convert(tmp_path, tmp_path / "a")] == ["reasonseg-val", "reasonseg-test"]
    assert set(read_split(tmp_path / "a/val")) == {"0_o"}
    (test,) = convert(tmp_path, tmp_path / "b", split="test")
    assert set(read_split(test.output)) == {"1_o"}
    with pytest.raises(BadSourceError, match=r"--split train is not in .*; splits there: val, test"):
        convert(tmp_path, tmp_path / "c", split="train")


def test_a_file_called_test_tells_nothing(tmp_path: Path) -> None:
    save_rows(tmp_path / "rows/test-0.parquet", [row(1)])
    with pytest.raises(
        BadSourceError, match=r"whether test-0\.parquet is val or test.*Pass --split val or --split test"
    ):
        convert(tmp_path / "rows", tmp_path / "out")


@pytest.mark.parametrize(("option", "value"), [("ignore_as", "ignore"), ("rasteriser", "pycocotools")])
def test_what_rows_cannot_give(tmp_path: Path, option: str, value: str) -> None:
    path = save_rows(tmp_path / "ReasonSeg_val.parquet", [row(1)])
    name = option.replace("_", "-")
    with pytest.raises(BadSourceError, match=rf"--{name} {value} is not possible.*Leave --{name} out"):
        convert(path, tmp_path / "out", **{option: value})
    convert(path, tmp_path / "out", ignore_as="target")


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(BadSourceError, match=r"none\.parquet does not exist"):
        convert(tmp_path / "none.parquet", tmp_path / "out", split="val")
    path = save_rows(tmp_path / "a/val.parquet", [row(1, mask=..., text=...)])
    with pytest.raises(BadSourceError, match=r"val\.parquet: the rows have no column mask, text; expected image, mask"):
        convert(path, tmp_path / "out")
    save_rows(path, [row(1)])
    save_rows(tmp_path / "a/val-2.parquet", [row(2, img_width=...)])
    with pytest.raises(BadSourceError, match="files of different datasets"):
        convert(path.parent, tmp_path / "out")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadSourceError, match=r"val\.parquet is no readable parquet file"):
        convert(path, tmp_path / "out")


def test_every_broken_row_is_named(tmp_path: Path) -> None:
    empty = np.zeros((30, 40), bool).tolist()
    rows = [
        row(0),
        row(1, mask=empty),
        row(2, mask=None),
        row(3, text=" "),
        row(4, mask=mask(4, 40, 30).tolist()),
        row(5, img_height=31),
        row(6, image={"bytes": photo(6)[:-300], "path": None}),
        row(7, image={"bytes": None, "path": "../../secret.jpg"}),
    ]
    path = save_rows(tmp_path / "ReasonSeg_val.parquet", rows)
    with pytest.raises(BadSourceError) as error:
        convert(path, tmp_path / "out")
    text = str(error.value)
    for part in (
        "reasonseg-val: 6 of 8 rows cannot be converted",
        "row 2: mask is missing",
        "row 3: column text must be a text, got an empty text",
        "mask of another size (1):",
        "row 5: 5_o.jpg: 30 × 40 pixels, the annotation says 31 × 40",
        "image file is truncated",
        "row 7: image '../../secret.jpg' is not in",
        "--max-skipped 0.75",
    ):
        assert part in text
    (summary,) = convert(path, tmp_path / "out", max_skipped=0.75)
    assert summary.notes == {"targets that are not in the image": 1}
    assert read_split(summary.output)["1_o"]["targets"][0]["masks"] == []


def test_several_texts(tmp_path: Path) -> None:
    path = save_rows(tmp_path / "val.parquet", [row(1, text=["one", "two"], image={"bytes": photo(1), "path": None})])
    for first, texts in ((False, ["one", "two"]), (True, ["one"])):
        (summary,) = convert(path, tmp_path / str(first), first=first)
        assert read_split(summary.output)["1_o"]["targets"][0]["expressions"] == texts
        extra = json.loads((summary.output / "index.json").read_text())["extra"]
        assert extra["texts"] == ("first" if first else "all")


def test_which_inputs_hold_rows(tmp_path: Path) -> None:
    assert holds_rows(tmp_path / "none.parquet")
    assert not holds_rows(tmp_path / "none")
    save_lisa(tmp_path / "lisa/val")
    assert not holds_rows(tmp_path / "lisa")
    save_rows(tmp_path / "lisa/.cache/a.parquet", [row(1)])
    assert not holds_rows(tmp_path / "lisa")
    save_rows(tmp_path / "lisa/rows/a.parquet", [row(1)])
    assert holds_rows(tmp_path / "lisa/rows")
    with pytest.raises(BadSourceError, match=r"holds parquet rows \(rows/a\.parquet\) and pairs .*\(val/a\.json\)"):
        holds_rows(tmp_path / "lisa")


@pytest.mark.realdata
def test_rows_equal_their_json_with_ignored_pixels_as_target(realdata: Path, tmp_path: Path) -> None:
    """The released rows were made of LISA's painter, with 255 cast to True."""
    shutil.copytree(realdata / "reasonseg/train", tmp_path / "in/val")
    (path,) = (tmp_path / "in/val").glob("*.json")
    content = json.loads(path.read_text())
    shapes = sorted(content["shapes"], key=lambda shape: shape["label"] == "ignore")  # here the ignored one is smallest
    painted = np.zeros((533, 685), np.uint8)
    for shape in shapes:
        cv2.fillPoly(painted, [np.array(shape["points"], dtype=np.int32)], 255 if shape["label"] == "ignore" else 1)
    image = {"bytes": path.with_suffix(".jpg").read_bytes(), "path": f"{path.stem}.jpg"}
    one = {"image": image, "mask": painted.astype(bool).tolist(), "text": content["text"][0], "image_id": path.stem}
    save_rows(tmp_path / "ReasonSeg_val/data/test-0.parquet", [row(0, **one, img_height=533, img_width=685)])
    convert(tmp_path / "ReasonSeg_val", tmp_path / "rows")
    plans = plan_reasonseg(tmp_path / "in", tmp_path / "json", ignore_as="target", texts="first")
    list(write_splits(plans, convert_reasonseg, WriteOptions("none"), lambda name, total: lambda: None))
    (ours,), (theirs,) = (read_split(tmp_path / name / "val").items() for name in ("rows", "json"))
    assert ours[0] == theirs[0]
    assert ours[1]["bytes"] == theirs[1]["bytes"]
    assert ours[1]["targets"][0] == theirs[1]["targets"][0] | {"kind": ""}
    assert mask_of(*ours[1]["targets"][0]["masks"]).sum() == np.count_nonzero(painted)
