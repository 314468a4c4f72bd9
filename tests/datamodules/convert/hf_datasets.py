"""Small datasets of Hugging Face form, for the converter to read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from datamodules.convert.folder_options import FolderPlan
from datamodules.convert.hf import HfOptions, plan_hf
from datamodules.convert.split import SplitSummary, WriteOptions, write_splits

SIZE = (30, 40)


def photo(seed: int = 0, name: str | None = None) -> dict[str, Any]:
    """An image cell: noise of 30 × 40 pixels as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": name}


def png(mask: np.ndarray, value: int = 255) -> dict[str, Any]:
    """A mask cell with a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * value).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def box(seed: int = 0) -> np.ndarray:
    """A mask with a box somewhere, (30, 40) bool."""
    top, left = np.random.default_rng(seed).integers(0, 20, 2)
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + 6, left : left + 9] = True
    return mask


def save_parquet(path: Path, rows: list[dict[str, Any]], *, group: int = 1000, schema: Any = None) -> Path:
    """Write rows as parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)
    return path


def save_arrow(path: Path, rows: list[dict[str, Any]], *, stream: bool = True, batch: int = 2) -> Path:
    """Write rows as an arrow stream or file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return path


def save_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def convert(
    source: Path | str, output: Path, *, workers: int = 1, max_skipped: float = 0.0, **options: Any
) -> tuple[FolderPlan, dict[str, SplitSummary]]:
    """Convert a dataset."""
    plan = plan_hf(HfOptions(str(source), **options), output)
    write = WriteOptions("none", workers=workers, max_skipped=max_skipped)
    summaries = write_splits(plan.plans, plan.convert, write, lambda name, total: lambda: None)
    return plan, {summary.output.name: summary for summary in summaries}
