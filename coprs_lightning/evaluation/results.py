"""The results of one checkpoint as plain data: what ``results.json`` holds, and what the tables are made of."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from coprs_lightning.evaluation.benchmarks import original_size, published
from coprs_lightning.evaluation.running import Settings, SplitRun
from coprs_lightning.evaluation.scores import buckets, summarise

FORMAT = 1
DIGITS = 6
"""Digits after the point in ``results.csv`` and of the scores in ``results.json``."""


def split_results(run: SplitRun, settings: Settings) -> dict[str, Any]:
    """What is known of one split after its evaluation.

    Returns:
        ``name``, ``folders``, ``indexes``, ``benchmark``, and under ``units`` for each unit ``n``, ``split_n``,
        ``original_n``, ``differs`` (from the published split), ``limited``, ``unusable`` (how many, and by
        ``unusable_keys`` which), ``scores`` and ``buckets``.
    """
    split = run.split
    units = {}
    for unit, records in run.records.items():
        whole, original = split.examples(unit), original_size(split.benchmark, unit)
        options = {"seed": settings.seed, "resamples": settings.resamples}
        units[unit] = {
            "n": len(records),
            "split_n": whole,
            "original_n": original,
            "differs": original is not None and len(records) != original,
            "limited": settings.limit_examples is not None and len(records) < whole,
            "unusable": len(run.unusable[unit]) if settings.limit_examples is not None else whole - len(records),
            "unusable_keys": run.unusable[unit],
            "scores": {name: _rounded(asdict(score)) for name, score in summarise(records, **options).items()},
            "buckets": _rounded(
                {
                    by: {name: {key: _plain(value) for key, value in one.items()} for name, one in found.items()}
                    for by, found in buckets(records, **options).items()
                }
            ),
        }
    return {
        "name": split.name,
        "folders": list(split.folders),
        "indexes": [
            {"name": index.name, "sha256": digest, "source": index.source, "licence": index.licence}
            for index, digest in zip(split.indexes, split.sha256, strict=True)
        ],
        "benchmark": split.benchmark,
        "images": sum(index.images for index in split.indexes),
        "units": units,
        "published": [asdict(one) for one in published(split.benchmark)],
    }


def rows(splits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A flat row for every split and unit: names, numbers of examples, and every score with its interval."""
    found = []
    for split in splits:
        for unit, result in split["units"].items():
            row: dict[str, Any] = {
                "split": split["name"],
                "unit": unit,
                "n": result["n"],
                "split_n": result["split_n"],
                "original_n": result["original_n"],
                "differs": result["differs"],
                "unusable": result["unusable"],
            }
            for name, score in result["scores"].items():
                row |= {name: score["value"], f"{name}_low": score["low"], f"{name}_high": score["high"]}
            found.append(row)
    return found


def _plain(value: Any) -> Any:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, DIGITS) if isinstance(value, float) else value
