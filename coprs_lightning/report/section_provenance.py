"""What the run was made with, as it recorded it itself, and the config that makes it again."""

from __future__ import annotations

from typing import Any

from coprs_lightning.report.html import block, code, details, esc, note, number, table
from coprs_lightning.report.run_files import RunFiles, as_dict, as_list


def provenance(run: RunFiles) -> str:
    """Revision, versions, seed, machine and data of the training, and of the evaluation."""
    record = run.provenance
    parts = []
    if record:
        git = record.get("git")
        facts = [
            ("command", code(record.get("command", "–"))),
            ("revision", _revision(git)),
            ("seed", esc("–" if record.get("seed") is None else record["seed"])),
            ("start, end", f"{esc(record.get('start', '–'))}, {esc(record.get('end') or '–')}"),
            ("status", esc(record.get("status", "–")) + (f": {esc(record['error'])}" if record.get("error") else "")),
            *((name, esc(value)) for name, value in _items(record.get("machine")) if value is not None),
        ]
        parts.append(table(["training", ""], [[esc(name), value] for name, value in facts], numeric_from=9))
        versions = [[esc(name), esc("–" if value is None else value)] for name, value in _items(record.get("versions"))]
        parts.append(details("Versions", table(["package", "version"], versions, numeric_from=9)))
        parts += [_data(record.get("data")), _parameters(record.get("parameters"))]
    else:
        parts.append(note("The run recorded nothing about itself (<code>callbacks.provenance</code> was off)."))
    if run.evaluation:
        parts.append(_evaluation(run.evaluation))
    return "".join(parts)


def config(run: RunFiles) -> str:
    """The config, which `coprs fit` takes as it is."""
    if not run.config:
        return note("There is no config file of a fit in the folder.")
    return details(f"{run.config_name} ({run.config.count(chr(10)):,} lines)", block(run.config))


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(as_dict(value).items())


def _revision(git: Any) -> str:
    if not isinstance(git, dict):
        return "– (an installed package)"
    changed = ' <span class="bad">and changed files</span>' if git.get("dirty") else ""
    return f"{code(git.get('commit', '–'))}{changed}"


def _data(data: Any) -> str:
    rows = [
        [
            esc(split),
            esc(one.get("name") or "–"),
            code(one.get("folder", "–")),
            code(str(one.get("sha256") or "–")[:16]),
        ]
        for split, listed in _items(data)
        for one in as_list(listed)
        if isinstance(one, dict)
    ]
    return (
        details("Data", table(["split", "name", "folder", "sha256 of the index"], rows, numeric_from=9)) if rows else ""
    )


def _parameters(parameters: Any) -> str:
    rows = [
        [esc(part), number(counts.get("total")), number(counts.get("trainable"))]
        for part, counts in _items(parameters)
        if isinstance(counts, dict)
    ]
    return details("Parameters", table(["part", "all", "trained"], rows)) if rows else ""


def _evaluation(evaluation: dict[str, Any]) -> str:
    made, checkpoint = as_dict(evaluation.get("provenance")), as_dict(evaluation.get("checkpoint"))
    facts = [
        ("checkpoint", code(checkpoint.get("file", "–"))),
        ("sha256", code(checkpoint.get("sha256", "–"))),
        ("revision", _revision(made.get("git"))),
        *((name, esc(value)) for name, value in _items(evaluation.get("machine"))),
        *((name, esc(value)) for name, value in _items(evaluation.get("settings")) if value is not None),
    ]
    return details(
        "Evaluation", table(["evaluation", ""], [[esc(name), value] for name, value in facts], numeric_from=9)
    )
