"""Puts the results of one checkpoint into a folder: tables, examples, pictures; ``results.json`` last."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from callbacks.files import plain, write_json
from coprs_lightning.evaluation.panels import draw_panels, safe_name
from coprs_lightning.evaluation.results import FORMAT
from coprs_lightning.evaluation.running import SplitRun
from coprs_lightning.evaluation.tables import csv_text, markdown

RESULTS = "results.json"
PANELS = "panels"
EXAMPLES = "examples.jsonl"


def write_results(output: Path, content: dict[str, Any], runs: Sequence[SplitRun], *, parquet: bool = False) -> None:
    """Write everything; what an earlier evaluation left there is replaced.

    Args:
        output: folder, made where missing.
        content: what ``results.json`` holds.
        runs: the splits with their examples.
        parquet: write ``examples.parquet`` instead of JSON lines.
    """
    output.mkdir(parents=True, exist_ok=True)
    (output / RESULTS).unlink(missing_ok=True)  # nobody takes half of the new for the old
    lines = (
        record.line(run.split.name, unit) for run in runs for unit, records in run.records.items() for record in records
    )
    for stale in (EXAMPLES, "examples.parquet"):
        (output / stale).unlink(missing_ok=True)
    if parquet:
        _write_parquet(output / "examples.parquet", lines)
    else:
        _replace(output / EXAMPLES, "".join(json.dumps(plain(line), ensure_ascii=False) + "\n" for line in lines))
    shutil.rmtree(output / PANELS, ignore_errors=True)
    for run in runs:
        draw_panels(run.candidates, output / PANELS / safe_name(run.split.name))
    _replace(output / "results.csv", csv_text(content["splits"]))
    _replace(output / "results.md", markdown(content))
    write_json(output / RESULTS, content)


def read_results(folder: Path) -> dict[str, Any] | None:
    """Content of a finished evaluation's ``results.json``; ``None`` where there is none, or one of another format."""
    try:
        content = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    # a lone surrogate, which a byte-level tokenizer may write, becomes \udc80
    temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
    os.replace(temporary, path)


def _write_parquet(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([plain(line) for line in lines]), path)
