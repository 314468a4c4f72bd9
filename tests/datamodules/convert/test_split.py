from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.photos import Photo
from datamodules.convert.split import Converted, SplitPlan, WriteOptions, write_splits
from tests.datamodules.build import make_sample
from tests.datamodules.convert.read_back import read_split

OPTIONS = {"licence": "CC0-1.0"}


def convert(number: int) -> Converted:
    """Images 0, 1, 2 … are fine, negative ones broken; 100 has a key that no tar can carry."""
    if number < 0:
        return Converted(problems=[BadItemError("negative", f"image {number}")], notes=Counter(seen=1))
    record, data = make_sample(number, expressions=2)
    if number == 100:
        record.key = "a.b"
    return Converted(record, Photo(data, "png", record.height, record.width), notes=Counter(seen=1), areas=[0.1])


def plan(folder: Path, jobs: list[int], **changes: Any) -> SplitPlan:
    about = {"name": "numbers-" + folder.name, "source": "drawn", "unit": "images", "items": len(jobs), "extra": {}}
    return SplitPlan(folder, jobs=jobs, **{**about, **changes})


def write(plans: list[SplitPlan], **options: Any) -> list:
    calls = []

    def track(name: str, total: int):
        calls.append([name, total, 0])

        def advance() -> None:
            calls[-1][2] += 1

        return advance

    summaries = list(write_splits(plans, convert, WriteOptions(**OPTIONS, **options), track))
    assert calls == [[plan.name, len(plan.jobs), len(plan.jobs)] for plan in plans]
    return summaries


def test_summary_and_bytes(tmp_path: Path) -> None:
    summary, other = write([plan(tmp_path / "a", [3, 1, 2]), plan(tmp_path / "b", [5])], shards=2)
    assert (summary.images, summary.targets, summary.expressions, summary.shards) == (3, 3, 6, 2)
    assert summary.bytes == sum(path.stat().st_size for path in (tmp_path / "a").glob("*.tar"))
    assert (summary.notes, summary.areas, summary.skipped) == (Counter(seen=3), [0.1] * 3, {})
    assert set(read_split(tmp_path / "a")) == {"img00003", "img00001", "img00002"}
    assert other.images == 1


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    jobs = [5, -1, 7, 2, 9, 4]
    for workers in (1, 2):
        write([plan(tmp_path / str(workers), jobs, name="x")], shards=2, workers=workers, max_skipped=0.2)
    files = [sorted((tmp_path / name).iterdir()) for name in ("1", "2")]
    assert len(files[0]) == 3
    for one, two in zip(*files, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_broken_items_above_the_limit(tmp_path: Path) -> None:
    jobs = [1, *range(-7, 0)]
    problems = [BadItemError("lost", "image x")]
    with pytest.raises(BadSourceError) as error:
        write([plan(tmp_path / "a", jobs, problems=problems, items=9)])
    lines = str(error.value).splitlines()
    assert lines[0] == "numbers-a: 8 of 9 images cannot be converted, so it was not written."
    assert lines[1:3] == ["  lost (1):", "    image x"]
    assert lines[3:6] == ["  negative (7):", "    image -7", "    image -6"]
    assert lines[-2] == "    … and 2 more"
    assert "--max-skipped 0.89" in lines[-1]
    assert list(tmp_path.iterdir()) == []
    (summary,) = write([plan(tmp_path / "a", jobs, problems=problems, items=9)], max_skipped=0.89)
    assert summary.images == 1
    assert {reason: len(details) for reason, details in summary.skipped.items()} == {"lost": 1, "negative": 7}


def test_the_limit_itself_is_allowed(tmp_path: Path) -> None:
    jobs = [*range(-29, 0), *range(71)]  # 0.29 * 100 is 28.999…
    (summary,) = write([plan(tmp_path / "a", jobs)], max_skipped=0.29)
    assert summary.images == 71


def test_nothing_left(tmp_path: Path) -> None:
    with pytest.raises(BadSourceError, match=r"(?s)numbers-a: no image is left to write.*image -1.*photo missing: 4"):
        write([plan(tmp_path / "a", [-1], notes=Counter({"photo missing": 4}))], max_skipped=1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_sample_that_the_writer_refuses_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(BadSourceError, match=r"(?s)1 of 2 images.*refused by the shard writer.*'a\.b' cannot name"):
        write([plan(tmp_path / "a", [1, 100])])


def test_all_outputs_are_checked_before_the_first_is_written(tmp_path: Path) -> None:
    write([plan(tmp_path / "b", [1])])
    with pytest.raises(FileExistsError, match="holds 2 file"):
        write([plan(tmp_path / "a", [1]), plan(tmp_path / "b", [2])])
    assert not (tmp_path / "a").exists()
    write([plan(tmp_path / "a", [1]), plan(tmp_path / "b", [2])], overwrite=True)
    assert set(read_split(tmp_path / "b")) == {"img00002"}
