"""Folders of a user's own, for the converters to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.convert.folder import plan_folder
from datamodules.convert.folder_options import FolderOptions, FolderPlan
from datamodules.convert.rows_splits import SplitRule
from datamodules.convert.split import SplitSummary, WriteOptions, write_splits
from tests.datamodules.convert.sources import save_photo

SIZE = (30, 40)


def save_mask(path: Path, top: int, left: int, bottom: int, right: int, *, value: int = 255) -> np.ndarray:
    """Write a PNG with a box of ``value``; the box is returned as (30, 40) bool."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[top:bottom, left:right] = True
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * value).save(path)
    return mask


def save_rows(folder: Path, *rows: dict[str, Any], photos: int = 3, name: str = "questions.jsonl") -> Path:
    """Write photos 0.jpg, 1.jpg … of 30 × 40 pixels and a table."""
    for number in range(photos):
        save_photo(folder / f"{number}.jpg", seed=number)
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return folder


def convert(
    folder: Path, output: Path, *, workers: int = 1, max_skipped: float = 0.0, form: str | None = None, **options: Any
) -> tuple[FolderPlan, dict[str, SplitSummary]]:
    """Convert a folder, everything into ``train`` unless a rule is given."""
    plan = plan_folder(FolderOptions(folder, **{"rule": SplitRule("train"), **options}), output, form)
    write = WriteOptions("none", workers=workers, max_skipped=max_skipped)
    summaries = write_splits(plan.plans, plan.convert, write, lambda name, total: lambda: None)
    return plan, {summary.output.name: summary for summary in summaries}
