"""Atomic JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from callbacks.files import write_json


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
