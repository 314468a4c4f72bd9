"""``results.csv`` and ``results.md``: the same numbers for programs and for people. No time and no machine."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from coprs_lightning.evaluation.results import DIGITS, rows

_SHOWN = {
    "giou": "gIoU",
    "ciou": "cIoU",
    "precision@0.5": "P@0.5",
    "precision@0.9": "P@0.9",
    "boundary_iou": "boundary IoU",
    "heatmap_giou": "heatmap gIoU",
    "heatmap_pointing": "pointing",
    "n_acc": "N-acc",
    "t_acc": "T-acc",
    "well_formed": "format",
}
_WITH_INTERVAL = ("giou", "ciou", "heatmap_giou")
_FAMILIES = {"refcoco": "RefCOCO, RefCOCO+ and RefCOCOg", "reasonseg": "ReasonSeg"}
_UNITS = {"target": "target (first expression)", "expression": "expression"}
_SAME = "both: a target has one expression"
_NAMED = 20  # unusable examples in results.md; results.json has all


def csv_text(splits: list[dict[str, Any]]) -> str:
    """One line for every split and unit; scores are fractions."""
    return as_csv(rows(splits))


def as_csv(found: list[dict[str, Any]]) -> str:
    """Flat rows as CSV; what a row does not have stays empty."""
    names = list(dict.fromkeys(name for row in found for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in found)
    return text.getvalue()


def cell(value: Any) -> str:
    """A value as every table spells it: fixed digits, nothing for what is not known."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.{DIGITS}f}" if isinstance(value, float) else str(value)


def markdown(content: dict[str, Any]) -> str:
    """The results as a page.

    Args:
        content: what ``results.json`` holds.
    """
    splits = content["splits"]
    parts = [_head(content), _overview(splits), *_marks(splits), *_comparisons(splits), *_kinds(splits)]
    return "\n\n".join([*parts, _how(content)]) + "\n"


def _head(content: dict[str, Any]) -> str:
    checkpoint = content["checkpoint"]
    kind = f", the {checkpoint['kind']} one of the run" if checkpoint.get("kind") else ""
    step = f", step {checkpoint['global_step']}" if checkpoint.get("global_step") is not None else ""
    return f"# Evaluation\n\nCheckpoint `{checkpoint['file']}`{kind}{step}, sha256 `{checkpoint['sha256'][:16]}…`."


def _overview(splits: list[dict[str, Any]]) -> str:
    there = {name for row in rows(splits) for name in row}
    shown = {name: title for name, title in _SHOWN.items() if name in there}
    table = [["split", "unit", "n", *shown.values()]]
    for split in splits:
        for unit, result in _different(split):
            marked = " ≠" if result["differs"] else ""
            scores = [
                _interval(score) if name in _WITH_INTERVAL else _percent(score["value"] if score else None)
                for name in shown
                for score in [result["scores"].get(name)]
            ]
            table.append([split["name"], unit, f"{result['n']:,}{marked}", *scores])
    return "Percent; in brackets 95 % bootstrap intervals.\n\n" + _table(table)


def _different(split: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Titles and results of a split's units; one where every target has a single expression, so that both agree."""
    units = [(_UNITS[unit], result) for unit, result in split["units"].items()]
    if len({result["split_n"] for _, result in units}) < len(units):
        return [(_SAME, units[0][1])]
    return units


def _marks(splits: list[dict[str, Any]]) -> list[str]:
    lines = []
    for split in splits:
        for unit, result in split["units"].items():
            where = f"{split['name']}, unit {unit}"
            if result["differs"]:
                lines.append(
                    f"- ≠ {where}: {result['n']:,} examples, the published split has {result['original_n']:,}. Its "
                    "numbers are not comparable with published ones."
                )
            elif result["limited"]:
                lines.append(f"- {where}: {result['n']:,} of {result['split_n']:,} examples (--limit-examples).")
            if result["unusable"]:
                named = ", ".join(f"`{key}`" for key in result["unusable_keys"][:_NAMED])
                more = len(result["unusable_keys"]) - _NAMED
                rest = f" and {more} more" if more > 0 else ""
                lines.append(f"- {where}: {result['unusable']} unusable and left out: {named}{rest}.")
    return ["\n".join(lines)] if lines else []


def _comparisons(splits: list[dict[str, Any]]) -> list[str]:
    """For every family of benchmarks a table: this checkpoint first, then what others report."""
    found = []
    for family, title in _FAMILIES.items():
        chosen = [split for split in splits if split["benchmark"] and split["benchmark"].startswith(family)]
        if not chosen:
            continue
        columns = [(split, metric) for split in chosen for metric in ("giou", "ciou") if _reported(split, metric)]
        head = ["model", "unit", *(f"{split['name']} {_SHOWN[metric]}" for split, metric in columns)]
        table = [head]
        for unit in dict.fromkeys(unit for split in chosen for unit in split["units"]):
            cells = [_own(split["units"].get(unit), metric) for split, metric in columns]
            table.append(["**this checkpoint**", unit, *cells])
        others: dict[tuple[str, str, str], dict[tuple[str, str], float]] = {}
        for split in chosen:
            for one in split["published"]:
                row = others.setdefault((one["model"], one["unit"] or "?", one["source"]), {})
                row[split["name"], one["metric"]] = one["value"]
        sources = list(dict.fromkeys(source for _, _, source in others))
        for (model, unit, source), values in others.items():
            cells = [_percent(values.get((split["name"], metric))) for split, metric in columns]
            table.append([f"{model} [{sources.index(source) + 1}]", unit, *cells])
        notes = "\n".join(f"{number}. {source}" for number, source in enumerate(sources, start=1))
        found.append(
            f"## {title}, beside published numbers\n\n{_table(table)}\n\nRead in:\n\n{notes}\n\nUnit: what one example "
            "is. `target` asks about each object once, by its first expression; `expression` by every one; `?` is not "
            "known. Compare within a unit."
        )
    return found


def _reported(split: dict[str, Any], metric: str) -> bool:
    return any(one["metric"] == metric for one in split["published"])


def _own(result: dict[str, Any] | None, metric: str) -> str:
    if result is None or metric not in result["scores"]:
        return ""
    return f"**{_percent(result['scores'][metric]['value'])}**{' ≠' if result['differs'] else ''}"


def _kinds(splits: list[dict[str, Any]]) -> list[str]:
    found = []
    for split in splits:
        for unit, result in list(split["units"].items())[:1]:
            for by, groups in result["buckets"].items():
                table = [[by, "n", "gIoU", "cIoU"]]
                for name, one in groups.items():
                    table.append([name, f"{one['n']:,}", _interval(one["giou"]), _interval(one["ciou"])])
                found.append(f"## {split['name']}, unit {unit}, by {by}\n\n{_table(table)}")
    return found


def _how(content: dict[str, Any]) -> str:
    settings = content["settings"]
    return (
        "## How\n\n"
        f"Greedy decoding of at most {settings['max_new_tokens']} tokens, in batches of {settings['batch_size']}. "
        "Masks and heatmaps are thresholded at logit 0 at the image's own size; pixels marked as ignored count neither "
        "for nor against; two empty masks have IoU 1; an answer without a concentration token is an empty mask. gIoU "
        "is the mean of the examples' IoUs, cIoU all intersections over all unions; P@t is the share of examples whose "
        f"IoU reaches t. Intervals: {settings['resamples']:,} bootstrap resamples of whole images, seed "
        f"{settings['seed']}. Every example of a split counts unless it is listed above as left out."
    )


def _interval(score: dict[str, Any] | None) -> str:
    if score is None:
        return ""
    if score["low"] is None or not math.isfinite(score["low"]):
        return _percent(score["value"])
    return f"{_percent(score['value'])} [{_percent(score['low'])}, {_percent(score['high'])}]"


def _percent(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def _table(cells: list[list[str]]) -> str:
    head, *body = [["" if cell is None else cell.replace("|", "\\|") for cell in row] for row in cells]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
