"""What a run's folder holds, as far as the page tells it; nothing in it is taken for granted."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Curves = dict[str, tuple[list[float], list[float]]]
"""Steps and values by the name of the logged value."""

EVALUATION = "evaluation"


@dataclass
class RunFiles:
    """A run.

    Attributes:
        folder: where it is.
        config: text of the newest config of a fit, ``""`` without one.
        config_name: name of its file.
        curves: logged values over steps.
        provenance: newest record of a fit (of anything, where there was no fit).
        results: content of every ``results*.json`` by file name.
        evaluation: content of ``evaluation/results.json``, or ``None``.
        smoke: looks of the newest smoke check.
        logs: folders of logs, newest last.
    """

    folder: Path
    config: str = ""
    config_name: str = ""
    curves: Curves = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    smoke: list[dict[str, Any]] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.config or self.curves or self.provenance or self.results or self.evaluation)

    def newest(self, pattern: str) -> list[Path]:
        """Files that match in the newest folder of logs that has any."""
        for folder in reversed(self.logs):
            if found := sorted(folder.glob(pattern)):
                return found
        return []


def read_run(folder: Path) -> RunFiles:
    """Read a run's folder; broken files are left out."""
    logs = sorted({*folder.glob("*/version_*"), *folder.glob("version_*")}, key=_version)
    logs = [folder, *(log for log in logs if log.is_dir())]
    records = [(log, record) for log in logs if (record := read_json(log / "provenance.json"))]
    fits = [record for _, record in records if record.get("stage") == "fit"]
    stages = {log: record.get("stage") for log, record in records}
    smoke = [looks for log in logs if (looks := as_list(as_dict(read_json(log / "smoke.json")).get("looks")))]
    configs = sorted(folder.glob("config*.yaml"), key=lambda path: (_version(path), path.name))
    configs = [path for path in configs if re.fullmatch(r"config(-\d+)?\.yaml", path.name)]
    return RunFiles(
        folder=folder,
        config=configs[-1].read_text(encoding="utf-8", errors="replace") if configs else "",
        config_name=configs[-1].name if configs else "",
        curves=_joined([read_curves(log) for log in logs if (stages.get(log) or "fit") == "fit"]),
        provenance=(fits or [record for _, record in records] or [{}])[-1],
        results={path.name: found for path in sorted(folder.glob("results*.json")) if (found := read_json(path))},
        evaluation=read_json(folder / EVALUATION / "results.json"),
        smoke=[look for look in (smoke[-1] if smoke else []) if isinstance(look, dict)],
        logs=logs,
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, ``None`` where the file holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_curves(folder: Path) -> Curves:
    """Logged values of one start of a run: from Lightning's ``metrics.csv``, else from TensorBoard's event files."""
    if (folder / "metrics.csv").is_file():
        return _from_csv(folder / "metrics.csv")
    return _from_events(folder) if any(folder.glob("events.out.tfevents.*")) else {}


def _from_csv(path: Path) -> Curves:
    curves: Curves = {}
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            step = as_number(row.get("step"))
            for name, text in row.items():
                value = as_number(text)
                if name not in ("step", "epoch", None) and value is not None:
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(float(number) if step is None else step)
                    values.append(value)
    return curves


def _from_events(folder: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    events.Reload()
    found = {name: events.Scalars(name) for name in events.Tags()[SCALARS]}
    return {
        name: ([float(one.step) for one in listed], [float(one.value) for one in listed])
        for name, listed in found.items()
        if name not in ("epoch", "hp_metric")
    }


def _joined(starts: list[Curves]) -> Curves:
    """Several starts of a run as one: where a later one begins, it replaces what earlier ones had from there on."""
    joined: Curves = {}
    for curves in starts:
        begins = min((min(steps) for steps, _ in curves.values() if steps), default=math.inf)
        for name in list(joined):
            kept = [(x, y) for x, y in zip(*joined[name], strict=True) if x < begins]
            joined[name] = ([x for x, _ in kept], [y for _, y in kept])
        for name, (steps, values) in curves.items():
            own = joined.setdefault(name, ([], []))
            own[0].extend(steps)
            own[1].extend(values)
    return {name: curve for name, curve in sorted(joined.items()) if curve[0]}


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        yield from csv.DictReader(file)


def as_dict(value: Any) -> dict[str, Any]:
    """A JSON object, an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """A JSON list, an empty one in place of anything else."""
    return value if isinstance(value, list) else []


def as_number(value: object) -> float | None:
    """A finite number, ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _version(path: Path) -> int:
    found = re.search(r"(\d+)(?:\.yaml)?$", path.name)
    return int(found[1]) if found else 0
