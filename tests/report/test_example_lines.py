"""Examples and the reasons of their failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coprs_lightning.report.example_lines import REASONS, ExampleLine, read_examples, reason, size
from tests.report.build import example, make_evaluation


def one(tmp_path: Path, **changes: Any) -> ExampleLine:
    path = tmp_path / "examples.jsonl"
    path.write_text(json.dumps(example(3, **{"thought": "look for: red circle.", **changes})) + "\n")
    (line,) = read_examples(path)
    return line


def test_one_unit_is_read_and_half_lines_are_not(tmp_path: Path) -> None:
    make_evaluation(tmp_path / "made")
    lines = read_examples(tmp_path / "made" / "examples.jsonl")
    assert len(lines) == 24
    assert {line.unit for line in lines} == {"target"}
    assert lines[1].thought_score == 1
    assert lines[4].thought_score == 0.5
    assert read_examples(tmp_path / "none.jsonl") == []


def test_expressions_are_read_where_there_are_no_targets(tmp_path: Path) -> None:
    assert one(tmp_path, unit="expression").unit == "expression"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"present": False, "truncated": True}, "cut off at the length limit, no concentration token"),
        ({"present": False}, "no concentration token"),
        ({"target_pixels": 0}, "something marked, though nothing fits"),
        ({"predicted_pixels": 0}, "nothing marked, though something fits"),
        ({"thought": "look for: blue circle."}, "the thought is wrong (known on synthetic data)"),
        ({"heatmap_iou": 0.02}, "the heatmap points elsewhere (IoU below 0.1)"),
        ({"heatmap_iou": 0.8}, "the heatmap is right, the decoder lost it"),
        ({"heatmap_iou": 0.3, "intersection": 250}, "the target is marked, and too much beside it"),
        ({"heatmap_iou": 0.3, "intersection": 50}, "less than half of the target is marked"),
        ({"heatmap_iou": None, "intersection": None}, "less than half of the target is marked"),
    ],
)  # fmt: skip
def test_the_first_reason_that_fits_counts(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert reason(one(tmp_path, **changes)) == expected
    assert expected in {name for name, _ in REASONS}


def test_a_thought_that_nothing_is_known_about_is_no_reason(tmp_path: Path) -> None:
    line = one(tmp_path, written_thought=None, thought="nonsense", heatmap_iou=0.02)
    assert line.thought_score is None
    assert reason(line) == "the heatmap points elsewhere (IoU below 0.1)"


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [(50, "below 1 % of the image"), (100, "1 to 3 %"), (999, "3 to 10 %"), (1000, "10 to 30 %"), (9000, "above 30 %")],
)
def test_sizes(tmp_path: Path, pixels: int, expected: str) -> None:
    assert size(one(tmp_path, target_pixels=pixels)) == expected


def test_no_target_has_no_size(tmp_path: Path) -> None:
    assert size(one(tmp_path, target_pixels=0)) is None
    assert size(one(tmp_path, height=None)) is None
