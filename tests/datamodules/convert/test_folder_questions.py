from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.folder_questions import QuestionReader
from datamodules.convert.folder_table import Row
from datamodules.convert.rows_masks import CocoMask, PictureMask
from datamodules.convert.rows_paths import FileFinder
from tests.datamodules.convert.test_rows_masks import RLE, TRIANGLE


@pytest.fixture
def reader(tmp_path: Path) -> QuestionReader:
    for name in ("a.jpg", "m.png", "n.png", "[x].png"):
        (tmp_path / name).write_bytes(b"")
    return QuestionReader(FileFinder(tmp_path), 3, "opencv")


def read(reader: QuestionReader, **cells: Any):
    return reader.read(Row("t line 2", {"image": "a.jpg", "question": "q", **cells}))


def test_all_columns(reader: QuestionReader, tmp_path: Path) -> None:
    question = read(
        reader, mask="m.png", ignore="n.png", target=7, reasoning=" r ", kind="k", split="val", no_target=False
    )
    assert (question.where, question.image, question.name) == ("t line 2", tmp_path / "a.jpg", "a.jpg")
    assert (question.target, question.split, question.content.reasoning, question.content.kind) == (
        "7",
        "val",
        "r",
        "k",
    )
    assert question.content.masks == [PictureMask(tmp_path / "m.png", "t line 2, mask m.png", 3)]
    assert question.content.ignore == PictureMask(tmp_path / "n.png", "t line 2, ignore n.png", None)
    assert (question.content.items, question.content.no_target) == (["t line 2"], False)


def test_little(reader: QuestionReader) -> None:
    question = read(reader, question=["q", "r"], reasoning=None, kind="", target=None)
    content = question.content
    assert (content.expressions, content.masks, content.ignore, content.reasoning) == (["q", "r"], [], None, None)
    assert (question.split, question.target, content.kind, content.no_target) == ("", "", "", False)


@pytest.mark.parametrize(
    ("mask", "kinds"),
    [
        (["m.png", "n.png"], [PictureMask] * 2),
        ('["m.png", "n.png"]', [PictureMask] * 2),
        (" m.png ", [PictureMask]),
        ("[x].png", [PictureMask]),
        (RLE, [CocoMask]),
        ('{"size": [30, 40], "counts": [1200]}', [CocoMask]),
        ([TRIANGLE], [CocoMask]),
        ([[TRIANGLE], [TRIANGLE]], [CocoMask] * 2),
        ([], []),
        ({}, []),
        ("[]", []),
        (None, []),
    ],
)
def test_forms_of_masks(reader: QuestionReader, mask: Any, kinds: list[type]) -> None:
    found = read(reader, mask=mask).content.masks
    assert [type(source) for source in found] == kinds
    assert all(source.rasteriser == "opencv" for source in found if isinstance(source, CocoMask))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"image": None}, "bad row: t line 2: column image must be a text, got nothing"),
        ({"image": "b.jpg"}, "missing file: t line 2: image 'b.jpg' is not in"),
        ({"image": "../a.jpg"}, "missing file|path outside"),
        ({"question": ""}, "column question must be a text, got an empty text"),
        ({"mask": "gone.png"}, "missing file: t line 2: mask 'gone.png' is not in"),
        ({"mask": ["m.png", "gone.png"]}, "mask 'gone.png' is not in"),
        ({"mask": ["m.png", 3]}, "bad mask: t line 2, mask: expected an RLE, polygons"),
        ({"mask": True}, "bad mask: t line 2, mask: expected .* got True"),
        ({"ignore": ["n.png"]}, r"bad row: t line 2: column ignore must be the path of a PNG, got \['n.png'\]"),
        ({"ignore": "gone.png"}, "t line 2: ignore 'gone.png' is not in"),
        ({"reasoning": 5}, "column reasoning must be a text, got 5"),
        ({"kind": ["k"]}, "column kind must be a text"),
        ({"target": 1.5}, "column target must be a text, got 1.5"),
        ({"no_target": "perhaps"}, "t line 2: column no_target must be true or false, got 'perhaps'"),
        ({"split": 3}, "column split must be a text, got 3"),
    ],
)
def test_bad_rows(reader: QuestionReader, cells: dict[str, Any], message: str) -> None:
    with pytest.raises(BadItemError, match=message):
        read(reader, **cells)


def test_a_split_that_leaves_the_output(reader: QuestionReader) -> None:
    with pytest.raises(BadSourceError, match=r"t line 2, column split: the split '\.\./x' cannot name a folder"):
        read(reader, split="../x")
