"""The examples of an evaluation, one by one, and why the failed ones failed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coprs_lightning.report.run_files import as_number

FAILED = 0.5
"""IoU below which a mask counts as failed (precision@0.5)."""


@dataclass(frozen=True)
class ExampleLine:
    """One example of ``examples.jsonl``.

    Attributes:
        key: unique in split and unit.
        split: name of the split.
        unit: ``target`` or ``expression``.
        kind: kind of question, ``""`` when unknown.
        question: what was asked.
        completion: what was written.
        thought: the thought in it.
        written_thought: the thought that the data has, or ``None``.
        well_formed: the format was kept.
        truncated: the length limit came first.
        present: there is a concentration token.
        iou: of the mask.
        heatmap_iou: of the heatmap, read as a mask; ``None`` where it is not told.
        target_share: share of the image that the target is; ``None`` where it is not told.
        no_target: nothing was to be marked.
        nothing_marked: the mask is empty.
        covered: share of the target that the mask covers; ``None`` where it is not told.
        distractors: objects that could be taken for the target; ``None`` where it is not told.
        thought_score: how right the thought is in [0, 1]; ``None`` where that is not known.
    """

    key: str
    split: str
    unit: str
    kind: str
    question: str
    completion: str
    thought: str
    written_thought: str | None
    well_formed: bool
    truncated: bool
    present: bool
    iou: float
    heatmap_iou: float | None
    target_share: float | None
    no_target: bool
    nothing_marked: bool
    covered: float | None
    distractors: int | None
    thought_score: float | None


def read_examples(path: Path) -> list[ExampleLine]:
    """Examples of a file, of one unit for each split: ``target`` where there is one (the paper's), else whatever is."""
    found = [line for line in _lines(path) if line is not None]
    units = {(line.split, line.unit) for line in found}
    return [line for line in found if line.unit == "target" or (line.split, "target") not in units]


def _lines(path: Path) -> Iterator[ExampleLine | None]:
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except OSError:
        return
    with file:
        for text in file:
            try:
                content = json.loads(text)
            except ValueError:
                continue
            yield _line(content) if isinstance(content, dict) else None


def _line(content: dict[str, Any]) -> ExampleLine | None:
    from callbacks.correlation_thought_score import score_thought

    iou = as_number(content.get("iou"))
    if iou is None:
        return None
    pixels, common = as_number(content.get("target_pixels")), as_number(content.get("intersection"))
    area = (as_number(content.get("height")) or 0) * (as_number(content.get("width")) or 0)
    written, thought = content.get("written_thought"), str(content.get("thought") or "")
    score = score_thought(thought, written) if isinstance(written, str) else None
    return ExampleLine(
        key=str(content.get("key", "")),
        split=str(content.get("split", "")),
        unit=str(content.get("unit", "")),
        kind=str(content.get("kind") or ""),
        question=str(content.get("question", "")),
        completion=str(content.get("completion", "")),
        thought=thought,
        written_thought=written if isinstance(written, str) else None,
        well_formed=bool(content.get("well_formed")),
        truncated=bool(content.get("truncated")),
        present=bool(content.get("present", True)),
        iou=iou,
        heatmap_iou=as_number(content.get("heatmap_iou")),
        target_share=pixels / area if pixels is not None and area else None,
        no_target=pixels == 0,
        covered=common / pixels if common is not None and pixels else None,
        distractors=None if (others := as_number(content.get("distractors"))) is None else int(others),
        nothing_marked=as_number(content.get("predicted_pixels")) == 0,
        thought_score=None if score is None else score.value,
    )


REASONS: tuple[tuple[str, Callable[[ExampleLine], bool]], ...] = (
    ("cut off at the length limit, no concentration token", lambda one: not one.present and one.truncated),
    ("no concentration token", lambda one: not one.present),
    ("something marked, though nothing fits", lambda one: one.no_target),
    ("nothing marked, though something fits", lambda one: one.nothing_marked),
    ("the thought is wrong (known on synthetic data)", lambda one: _below(one.thought_score, 1.0)),
    ("the heatmap points elsewhere (IoU below 0.1)", lambda one: _below(one.heatmap_iou, 0.1)),
    ("the heatmap is right, the decoder lost it", lambda one: not _below(one.heatmap_iou or 0.0, FAILED)),
    ("the target is marked, and too much beside it", lambda one: one.covered is not None and one.covered >= 0.5),
    ("less than half of the target is marked", lambda one: True),
)
"""Why an example failed, the first that fits; from the completion to the decoder."""


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


SIZES: tuple[tuple[str, float], ...] = (
    ("below 1 % of the image", 0.01),
    ("1 to 3 %", 0.03),
    ("3 to 10 %", 0.10),
    ("10 to 30 %", 0.30),
    ("above 30 %", float("inf")),
)


def reason(line: ExampleLine) -> str:
    """Why a failed example failed."""
    return next(name for name, fits in REASONS if fits(line))


def size(line: ExampleLine) -> str | None:
    """Bucket of the target's size; ``None`` where it is not known or there is no target."""
    if line.target_share is None or line.no_target:
        return None
    share = line.target_share
    return next(name for name, limit in SIZES if share < limit)
