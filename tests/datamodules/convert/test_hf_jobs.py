from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pytest

from datamodules.convert.errors import BadSourceError
from datamodules.convert.hf_columns import ColumnNames, ColumnRows
from datamodules.convert.hf_files import find_data_files
from datamodules.convert.hf_jobs import GroupedRows
from datamodules.convert.hf_refer import ReferRows
from datamodules.convert.hf_scan import scan_rows
from datamodules.convert.refer_photos import PhotoFinder
from datamodules.convert.rows_paths import FileFinder
from tests.datamodules.convert.hf_datasets import box, photo, save_lines, save_parquet
from tests.datamodules.convert.sources import save_photo
from tests.datamodules.convert.test_hf_refer import COLUMNS, refer_row


def grouped(folder: Path) -> GroupedRows:
    form = ColumnRows(ColumnNames(), dict.fromkeys(("image", "mask", "text"), ""), FileFinder(folder))
    files = find_data_files(str(folder))
    scan = scan_rows(form, files)
    return GroupedRows(form, files, scan, frozenset(range(len(scan.split))))


def test_rows_about_one_image_meet_wherever_they_are(tmp_path: Path) -> None:
    rows = [{"image": photo(n % 3, f"{n % 3}.png"), "mask": box(n).tolist(), "text": f"q{n}"} for n in range(8)]
    save_parquet(tmp_path / "a.parquet", rows[:5], group=2)
    save_parquet(tmp_path / "b.parquet", rows[5:])
    jobs = grouped(tmp_path)
    assert len(jobs) == 3
    for _ in range(2):  # as often as one likes
        found = [(job.key, [target.expressions[0] for target in job.targets]) for job in jobs]
        assert found == [("2", ["q2", "q5"]), ("0", ["q0", "q3", "q6"]), ("1", ["q1", "q4", "q7"])]
    assert [target.target_id for target in jobs[1].targets] == ["0", "1", "2"]
    assert jobs[-1].key == "1"
    assert [job.key for job in jobs[:2]] == ["2", "0"]
    with pytest.raises(IndexError):
        jobs[3]


def test_what_cannot_be_used_of_a_group(tmp_path: Path) -> None:
    save_photo(tmp_path / "000000000005.jpg")
    rows = [
        refer_row(1, 5),
        refer_row(1, 5),
        refer_row(2, 5, captions=[]),
        refer_row(3, 5, raw_anns=None),
        refer_row(4, 5),
    ]
    save_lines(tmp_path / "a.jsonl", rows)
    form = ReferRows(COLUMNS, PhotoFinder(tmp_path, [tmp_path]), "pycocotools")
    files = find_data_files(str(tmp_path))
    (job,) = GroupedRows(form, files, scan_rows(form, files), frozenset({0}))
    assert [target.target_id for target in job.targets] == ["1", "4"]
    assert [str(problem) for problem in job.problems] == [
        "id used twice: a.jsonl line 2: 1 names another row about the same image, too",
        "bad row: a.jsonl line 4: raw_anns must be a COCO annotation as JSON, got None",
    ]
    assert job.notes == {"rows left out for want of a sentence": 1}


def test_files_that_change_meanwhile(tmp_path: Path) -> None:
    path = save_photo(tmp_path / "000000000005.jpg")
    save_lines(tmp_path / "a.jsonl", [refer_row(1, 5)])
    form = ReferRows(COLUMNS, PhotoFinder(tmp_path, [tmp_path]), "pycocotools")
    files = find_data_files(str(tmp_path))
    jobs = GroupedRows(form, files, scan_rows(form, files), frozenset({0}))
    path.unlink()
    with pytest.raises(BadSourceError, match=r"a.jsonl line 1: its photo COCO_train2014_000000000005.jpg went away"):
        list(jobs)
    save_lines(tmp_path / "a.jsonl", [refer_row(1, 5, image_id=None)])
    with pytest.raises(BadSourceError, match=r"image_id must be a number, got None. It was usable a while ago"):
        list(jobs)


def test_memory_does_not_grow_with_what_waits(tmp_path: Path) -> None:
    """Every image comes back at the end, so that all rows before wait; their thoughts of 10 kB must not."""
    images = [photo(n % 5) for n in range(400)] + [photo(n) for n in range(5)]
    rows = [{"image": image, "mask": box(n).tolist(), "text": "q" * 10_000} for n, image in enumerate(images)]
    save_parquet(tmp_path / "a.parquet", rows, group=50)
    del rows, images
    jobs = grouped(tmp_path)
    gc.collect()
    tracemalloc.start()
    iterator = iter(jobs)
    first = next(iterator)
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(first.targets) == 81
    assert size < 2.5e6, size
