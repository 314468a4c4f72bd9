"""How the run learnt: its logged values, those that belong together in one chart."""

from __future__ import annotations

from collections.abc import Iterable

from coprs_lightning.report.charts import line_chart
from coprs_lightning.report.html import details, esc, note
from coprs_lightning.report.run_files import Curves, RunFiles

_MOST = 12
"""Curves in one chart."""

_FIRST = (
    ("Masks and heatmaps in validation", ("val/giou", "val/ciou", "val/heatmap_giou", "val/heatmap_ciou")),
    ("Training loss", ("train/loss", "train/loss/language", "train/loss/segmentation", "train/loss/policy")),
    (
        "Parts of the segmentation loss",
        ("train/loss/heatmap_bce", "train/loss/heatmap_dice", "train/loss/dice", "train/loss/focal"),
    ),
    ("Reward", ("train/reward/total", "train/reward/mask", "train/reward/format")),
    ("Completions in validation", ("val/format_rate", "val/token_rate", "val/none_accuracy", "val/count_accuracy")),
    ("Correlation R in validation", ("val/heatmap_mask_r", "val/thought_mask_r")),
)
"""What is shown at first sight."""


def curves(run: RunFiles) -> str:
    """Charts of everything that was logged; the more special ones behind a click."""
    if not run.curves:
        return note(
            "The run logged no values: neither a <code>metrics.csv</code> nor TensorBoard's event files are there."
        )
    left = dict(run.curves)
    shown = []
    for title, names in _FIRST:
        chosen = {name: left.pop(name) for name in names if name in left}
        shown.append(_figure(title, chosen))
    kinds = {name: left.pop(name) for name in list(left) if name.startswith("val/giou/")}
    shown.insert(1, _figure("gIoU in validation, by kind of question", kinds))
    rest = [_figure(title, chosen) for title, chosen in _groups(left)]
    more = details("All other logged values", f'<div class="grid">{"".join(rest)}</div>') if any(rest) else ""
    return f'<div class="grid">{"".join(shown)}</div>{more}'


def _groups(left: Curves) -> Iterable[tuple[str, Curves]]:
    """Values of one stage and topic together: ``train/reward/…``, ``lr/…``, ``val/precision@…``."""
    found: dict[str, Curves] = {}
    for name, curve in left.items():
        topic = "lr" if name.startswith("lr/") else name.rpartition("/")[0] or name
        if "@" in name:
            topic = name.partition("@")[0]
        found.setdefault(topic, {})[name] = curve
    for topic, chosen in found.items():
        if topic in ("train", "val", "test"):  # of different sizes: each by itself
            yield from ((name, {name: curve}) for name, curve in chosen.items())
            continue
        names = list(chosen)
        for start in range(0, len(names), _MOST):
            yield topic, {name: chosen[name] for name in names[start : start + _MOST]}


def _figure(title: str, chosen: Curves) -> str:
    chart = line_chart(_labelled(chosen))
    return f"<figure><h3>{esc(title)}</h3>{chart}</figure>" if chart else ""


def _labelled(chosen: Curves) -> Curves:
    """Curves by the part of their names that differs; equal ones as one."""
    prefix = _shared([name.split("/") for name in chosen])
    labelled: Curves = {}
    seen: dict[str, str] = {}
    for name, curve in chosen.items():
        label = "/".join(name.split("/")[prefix:])
        twin = seen.setdefault(repr(curve), label)
        if twin != label:
            labelled[f"{twin}, {label}"] = labelled.pop(twin)
            seen[repr(curve)] = f"{twin}, {label}"
        else:
            labelled[label] = curve
    return labelled


def _shared(parts: list[list[str]]) -> int:
    """How many leading words all names share; each keeps one."""
    count = 0
    while all(len(words) > count + 1 for words in parts) and len({words[count] for words in parts}) == 1:
        count += 1
    return count
