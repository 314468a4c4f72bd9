from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.hf_rows import open_rows
from tests.datamodules.convert.hf_datasets import box, save_arrow, save_lines, save_parquet

ROWS = [{"n": n, "mask": box(n).tolist(), "text": f"q{n}", "other": {"bytes": b"x", "path": None}} for n in range(40)]


def everything(first: int, end: int) -> bool:
    return True


@pytest.mark.parametrize("form", ["parquet", "stream", "file", "lines"])
def test_rows_of_every_form(tmp_path: Path, form: str) -> None:
    if form == "parquet":
        path = save_parquet(tmp_path / "a.parquet", ROWS, group=7)
    elif form == "lines":
        path = save_lines(tmp_path / "a.jsonl", [{**row, "other": None} for row in ROWS])
    else:
        path = save_arrow(tmp_path / "a.arrow", ROWS, stream=form == "stream")
    rows = open_rows(path)
    assert list(rows.columns()) == ["n", "mask", "text", "other"]
    found = list(rows.read(["mask", "n"], everything))
    assert [number for number, _ in found] == [cells["n"] for _, cells in found] == list(range(40))
    for number, cells in found:
        np.testing.assert_array_equal(np.array(cells["mask"]), box(number))
        assert form == "lines" or (isinstance(cells["mask"], np.ndarray) and set(cells) == {"n", "mask"})
    assert [number for number, _ in rows.read(["n"], lambda first, end: first <= 17 < end)] == [17]
    assert rows.place(3) == ("line 4" if form == "lines" else "row 3")


def test_nested_lists_that_are_no_grid(tmp_path: Path) -> None:
    kinds = {
        "bool": pa.list_(pa.list_(pa.bool_())),
        "int": pa.large_list(pa.large_list(pa.uint8())),
        "float": pa.list_(pa.list_(pa.float64())),
        "deep": pa.list_(pa.list_(pa.list_(pa.float64()))),
        "text": pa.string(),
    }
    rows: list[dict[str, Any]] = [
        {"bool": [[True], [False]], "int": [[1, 2]], "float": [[1.5, 2.0]], "deep": [[[1.0]]], "text": "a"},
        {"bool": [[True], [False, True]], "int": [[1, None]], "float": None, "deep": [], "text": None},
        {"bool": [], "int": [[], []], "float": [[]], "deep": None, "text": ""},
        {"bool": None, "int": [None], "float": [None], "deep": None, "text": ""},
    ]
    path = save_parquet(tmp_path / "a.parquet", rows, schema=pa.schema(list(kinds.items())))
    found = [cells for _, cells in open_rows(path).read(list(kinds), everything)]
    assert isinstance(found[0]["bool"], np.ndarray)
    assert isinstance(found[0]["int"], np.ndarray)
    for row, cells in zip(rows, found, strict=True):
        assert {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in cells.items()
        } == row


def test_json_lines_with_faults(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{oops\n[1]\n{"a": 2}')
    rows = open_rows(tmp_path / "a.jsonl")
    assert rows.columns() == {"a": "int"}
    found = dict(rows.read((), everything))
    assert (found[0], found[4], list(found)) == ({"a": 1}, {"a": 2}, [0, 2, 3, 4])
    assert isinstance(found[2], BadItemError)
    assert str(found[2]).startswith("unreadable row: a.jsonl line 3: broken JSON at column 2")
    assert str(found[3]) == "unreadable row: a.jsonl line 4: expected a JSON object, got list"


def test_broken_files(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.arrow"):
        (tmp_path / name).write_bytes(b"PAR1 nothing of the kind")
        with pytest.raises(BadSourceError, match=rf"{name} is no readable {name[2:]} file: .*Fetch it anew"):
            open_rows(tmp_path / name)
    noise = [{"n": n, "text": str(np.random.default_rng(n).bytes(500))} for n in range(3000)]
    path = save_parquet(tmp_path / "b.parquet", noise, group=1000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40_000] = bytes(40_000)
    path.write_bytes(data)
    with pytest.raises(BadSourceError, match=r"b.parquet cannot be read after row \d+: "):
        list(open_rows(path).read(["n", "text"], everything))
    path = save_arrow(tmp_path / "c.arrow", ROWS)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(BadSourceError, match=r"c.arrow cannot be read after row \d+: "):
        list(open_rows(path).read(["n"], everything))


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_parquet(tmp_path / "a.parquet", ROWS)
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "pyarrow":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(
        BadSourceError, match=r"a.parquet needs pyarrow, which is not installed: pip install '.\[parquet\]'"
    ):
        open_rows(path)
