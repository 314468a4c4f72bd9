"""What is published about the splits that everybody reports (paper sections 2 and 3, evaluation protocol)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).with_name("published.yaml")
_METRICS = ("giou", "ciou")


@dataclass(frozen=True)
class Published:
    """One published number.

    Attributes:
        benchmark: name of the split, as the converters write it into the index (``refcoco-unc-val``).
        model: whose number.
        metric: ``giou`` or ``ciou``.
        value: as a fraction.
        unit: ``target`` or ``expression``; ``None`` where it is not known.
        source: where it was read.
    """

    benchmark: str
    model: str
    metric: str
    value: float
    unit: str | None
    source: str


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return content


def known_benchmarks() -> list[str]:
    """Names of the published splits."""
    return list(_content()["sizes"])


def original_size(benchmark: str | None, unit: str) -> int | None:
    """Examples of the published split, ``None`` where it is no published one or nobody uses the unit.

    Args:
        benchmark: name of the split.
        unit: ``target``, ``expression`` or ``images``.
    """
    size: int | None = _content()["sizes"].get(benchmark, {}).get(unit)
    return size


def published(benchmark: str | None) -> list[Published]:
    """Every published number of a split, in the order of the file: the paper's own first."""
    content = _content()
    found = []
    for row in content["rows"]:
        for metric in _METRICS:
            value = row.get(metric, {}).get(benchmark)
            if value is not None:
                source = content["sources"][row["source"]]
                found.append(
                    Published(str(benchmark), row["model"], metric, round(value / 100, 6), row.get("unit"), source)
                )
    return found
