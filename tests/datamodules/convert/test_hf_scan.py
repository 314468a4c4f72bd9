from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.convert.errors import BadSourceError
from datamodules.convert.hf_columns import ColumnNames, ColumnRows
from datamodules.convert.hf_files import find_data_files
from datamodules.convert.hf_scan import NOT_USED, scan_rows
from datamodules.convert.rows_paths import FileFinder
from tests.datamodules.convert.hf_datasets import photo, save_lines, save_parquet

COLUMNS = dict.fromkeys(("image", "mask", "text", "part"), "")


def test_groups_of_rows(tmp_path: Path) -> None:
    images = [photo(0), photo(1), photo(0, "other name")]
    save_parquet(tmp_path / "train.parquet", [{"image": image, "part": None} for image in images])
    save_parquet(tmp_path / "val.parquet", [{"image": images[1], "part": None}, {"image": images[1], "part": "mine"}])
    form = ColumnRows(ColumnNames(split="part"), COLUMNS, FileFinder(tmp_path))
    files = find_data_files(str(tmp_path))
    scan = scan_rows(form, files)
    assert [list(rows) for rows in scan.rows] == [[0, 1, 0], [2, 3]]
    assert (scan.split, list(scan.size), list(scan.image)) == (
        ["train", "train", "val", "mine"],
        [2, 1, 1, 1],
        [0, 1, 1, 1],
    )
    assert scan.items == {"train": 3, "val": 1, "mine": 1}
    assert scan.shared(set()) == {1}
    assert scan.shared({next(iter(scan.keys)), "unknown"}) == {0, 1}
    assert set(scan_rows(form, files, "all").split) == {"all"}


def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    path = save_lines(tmp_path / "a.jsonl", [{"image": "gone.jpg"}, {"image": None, "part": "validation"}])
    path.write_text(path.read_text() + "\n{broken\n")
    form = ColumnRows(ColumnNames(split="part"), COLUMNS, FileFinder(tmp_path))
    scan = scan_rows(form, find_data_files(str(tmp_path)))
    assert list(scan.rows[0]) == [NOT_USED] * 4
    assert [error.detail[:17] for error in scan.problems["train"]] == ["a.jsonl line 1: i", "a.jsonl line 4: b"]
    assert [error.detail for error in scan.problems["val"]] == [
        "a.jsonl line 2: image must be a picture or the path of one, got None"
    ]
    assert scan.items == {"train": 2, "val": 1}
    save_lines(tmp_path / "a.jsonl", [{"image": "a", "part": "../up"}])
    with pytest.raises(BadSourceError, match=r"a.jsonl line 1: the split '../up' cannot name a folder"):
        scan_rows(form, find_data_files(str(tmp_path)))
