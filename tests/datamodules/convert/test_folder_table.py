from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from datamodules.convert.errors import BadSourceError
from datamodules.convert.folder_table import parse_object, read_table

NEEDED = ("image", "question")


def save(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_json_lines(tmp_path: Path) -> None:
    lines = ['{"image": "a", "question": "q\u2028r"}', "", '{"image": "b", "mask": null, "new": 1}\r']
    table = read_table(save(tmp_path / "t.jsonl", b"\xef\xbb\xbf" + "\n".join(lines).encode()), NEEDED)
    assert [(row.where, row.cells) for row in table.rows] == [
        ("t.jsonl line 1", {"image": "a", "question": "q\u2028r"}),
        ("t.jsonl line 3", {"image": "b", "mask": None, "new": 1}),
    ]
    assert table.columns == ["image", "question", "mask", "new"]
    assert table.problems == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{oops}", "broken JSON at column 2: "),
        (b"[1]", "expected a JSON object, got list"),
        (b'{"image": "\xff"}', "not UTF-8"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a":' + b"[" * 100_000, "broken JSON: brackets nested without end"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
    ],
)
def test_unreadable_json_lines(tmp_path: Path, line: bytes, message: str) -> None:
    table = read_table(save(tmp_path / "t.jsonl", b'{"image": 1, "question": 2}\n' + line + b"\n"), NEEDED)
    (problem,) = table.problems
    assert str(problem).startswith("unreadable row: t.jsonl line 2: ")
    assert message in str(problem)
    with pytest.raises(ValueError, match=message.split("(")[0]):
        parse_object(line)


def test_csv_with_everything_that_spreadsheets_write(tmp_path: Path) -> None:
    text = '\ufeffimage, question ,mask,note\r\n"a, b.jpg","say ""what""\nit is",,\r\n\r\n'
    text += ' c.jpg,5" disc,m.png\r\n,,,\r\nd,é,x,y\r\n'
    table = read_table(save(tmp_path / "t.csv", text), NEEDED)
    assert [(row.where, row.cells) for row in table.rows] == [
        ("t.csv line 2", {"image": "a, b.jpg", "question": 'say "what"\nit is'}),
        ("t.csv line 5", {"image": " c.jpg", "question": '5" disc', "mask": "m.png"}),
        ("t.csv line 7", {"image": "d", "question": "é", "mask": "x", "note": "y"}),
    ]
    assert table.columns == ["image", "question", "mask", "note"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends(tmp_path: Path, delimiter: str, end: str) -> None:
    text = end.join(delimiter.join(cells) for cells in (["question", "image"], ["q", "a"], ["r", "b"]))
    table = read_table(save(tmp_path / "t.tsv", text), NEEDED)
    assert [row.cells for row in table.rows] == [{"question": "q", "image": "a"}, {"question": "r", "image": "b"}]


def test_long_cells(tmp_path: Path) -> None:
    polygons = json.dumps([[1, 2] * 60_000])
    limit = csv.field_size_limit()
    table = read_table(save(tmp_path / "t.csv", f'image,question,mask\na,q,"{polygons}"\n'), NEEDED)
    assert table.rows[0].cells["mask"] == polygons
    assert csv.field_size_limit() == limit


def test_too_many_cells(tmp_path: Path) -> None:
    table = read_table(save(tmp_path / "t.csv", "image,question\na,what, then\nb,q\n"), NEEDED)
    (problem,) = table.problems
    assert str(problem) == "unreadable row: t.csv line 2: 3 cells under 2 columns; put cells that hold ',' in quotes"
    assert [row.where for row in table.rows] == ["t.csv line 3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "t.csv has no row. Add one for each question"),
        (b"image,question\n", "t.csv has no row"),
        (b"image,text\na,b\n", r"t.csv has no column question; columns found: image, text\. Rename"),
        (b"a\n", "has no column image and no column question; columns found: a"),
        (b"image,question,image\na,b,c\n", "the header names 'image' twice"),
        (
            b'image,question\na,b\nc,"d\ne,f\n',
            r"t.csv: the row that begins at line 3 is no CSV: unexpected end of data",
        ),
        (b'image,question\na,"b"c\n', r"line 2 is no CSV: ',' expected after '\"'.*double quotes"),
        (b"image,question\na,caf\xe9\n", r"t.csv line 2 is not UTF-8. Save the file as UTF-8 \(in Excel"),
        ("image,question\na,b\n".encode("utf-16"), r"t.csv is UTF-16. Save it as UTF-8"),
        (b"image,question\na,b\nc,\0d\n", "t.csv line 3 holds a NUL character"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(BadSourceError, match=message):
        read_table(save(tmp_path / "t.csv", content), NEEDED)


def test_missing_file_and_empty_json(tmp_path: Path) -> None:
    with pytest.raises(BadSourceError, match=r"--table .*gone.csv cannot be read: No such file"):
        read_table(tmp_path / "gone.csv", NEEDED)
    with pytest.raises(BadSourceError, match="has no row"):
        read_table(save(tmp_path / "t.jsonl", "\n\n"), NEEDED)
    with pytest.raises(BadSourceError, match="has no column question; columns found: image"):
        read_table(save(tmp_path / "t.jsonl", '{"image": "a"}'), NEEDED)


def test_a_cell_above_the_limit(tmp_path: Path) -> None:
    content = b"image,question\na," + b"x" * (64 * 2**20 + 1)
    with pytest.raises(BadSourceError, match=r"line 2 is no CSV: field larger than field limit"):
        read_table(save(tmp_path / "t.csv", content), NEEDED)
