"""`coprs show`: the results of a run as a table, and where its pictures and checkpoints are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from coprs_lightning.commands import CommandError

HELP = "print the results of a run and the paths of its panels and checkpoints"

_SHOWN_PANELS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See :mod:`coprs_lightning.commands`."""
    parser.add_argument("run", metavar="RUN", help="folder of a run (its trainer.default_root_dir)")


def run(args: argparse.Namespace) -> int:
    """See :mod:`coprs_lightning.commands`.

    Raises:
        CommandError: where there are no results.
    """
    folder = Path(args.run)
    results = read_results(folder)
    _print_table(folder, results)
    for line in paths(folder, results):
        print(line)
    return 0


def read_results(folder: Path) -> dict[str, Any]:
    """Content of the run's ``results.json``.

    Raises:
        CommandError: for a folder without results, or a file that is no JSON object.
    """
    file = folder / "results.json"
    if not file.is_file():
        raise CommandError(
            f"{folder} holds no results.json. Name a run that `coprs fit`, validate or test has finished."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CommandError(f"{file} is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise CommandError(f"{file} holds a {type(content).__name__}, not the results of a run.")
    return content


def rows(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values of the table, gIoU by kind of question last."""
    plain = [(name, value) for name, value in results.items() if isinstance(value, int | float | str)]
    kinds = [(f"giou of {kind!r} questions", value) for kind, value in results.get("by_kind", {}).items()]
    return [(name, f"{value:.4f}" if isinstance(value, float) else str(value)) for name, value in [*plain, *kinds]]


def paths(folder: Path, results: dict[str, Any]) -> list[str]:
    """Where the best checkpoint and the newest panels are."""
    found = [f"checkpoint: {results['best_checkpoint']}"] if results.get("best_checkpoint") else []
    panels = sorted(
        folder.glob("logs/version_*/panels/*/*.png"), key=lambda file: (file.parent.stat().st_mtime, file.name)
    )
    newest = [panel for panel in panels if panel.parent == panels[-1].parent]
    found += [f"panel: {panel}" for panel in newest[:_SHOWN_PANELS]]
    if len(newest) > _SHOWN_PANELS:
        found.append(f"  … {len(newest) - _SHOWN_PANELS} more in {newest[0].parent}")
    return found


def _print_table(folder: Path, results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(folder))
    table.add_column("result")
    table.add_column("value", justify="right", overflow="fold")
    for name, value in rows(results):
        if name != "best_checkpoint":
            table.add_row(name, value)
    Console().print(table)
