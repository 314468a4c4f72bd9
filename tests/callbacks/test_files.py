"""Atomic JSON, and JSON lines."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from callbacks.files import append_json_lines, write_json


def test_content_is_plain_json_with_null_for_what_is_not_finite(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    write_json(path, {"nan": math.nan, "list": [1, -math.inf, (2.5, "ü")], "path": Path("x/y"), "none": None, 3: True})
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "nan": None,
        "list": [1, None, [2.5, "ü"]],
        "path": str(Path("x/y")),
        "none": None,
        "3": True,
    }


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"good": 1})
    with pytest.raises(TypeError):
        write_json(path, {"bad": object()})
    assert json.loads(path.read_text()) == {"good": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_lines_are_added_and_a_half_line_is_ended(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    append_json_lines(path, [{"a": math.nan}, {"b": "ü\n\udc80"}])
    append_json_lines(path, [])
    append_json_lines(path, [{"c": 1}])
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [{"a": None}, {"b": "ü\n\udc80"}, {"c": 1}]
    path.write_bytes(b'{"half": ')
    append_json_lines(path, [{"d": 2}, {"e": 3}])
    assert path.read_bytes().splitlines() == [b'{"half": ', b'{"d": 2}', b'{"e": 3}']
