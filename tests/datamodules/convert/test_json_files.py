from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.convert.json_files import read_json


def test_encodings(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes('["café"]'.encode())
    assert read_json(path) == ["café"]
    path.write_bytes('["café"]'.encode("utf-8-sig"))
    assert read_json(path) == ["café"]
    path.write_bytes('["café’s"]'.encode("cp1252"))
    assert read_json(path, fallback="cp1252") == ["café’s"]
    with pytest.raises(ValueError, match=r"a\.json: not UTF-8"):
        read_json(path)
    path.write_bytes(b'["\x81"]')  # a hole of cp1252
    with pytest.raises(ValueError, match=r"a\.json: neither UTF-8 nor cp1252"):
        read_json(path, fallback="cp1252")


def test_broken_syntax_is_located(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"text": [],\n "shapes": [}')
    with pytest.raises(ValueError, match=r"a\.json: broken JSON at line 2 column 13: Expecting value"):
        read_json(path, fallback="cp1252")


@pytest.mark.parametrize("text", ["[" * 200_000, "[" + "9" * 10_000 + "]"])
def test_json_made_to_break_parsers(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: broken JSON"):
        read_json(path)
