"""What to run: one `coprs fit` for every cell and seed, its folder, and whether an earlier call has done it."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callbacks.files import write_json
from coprs_lightning.ablation.axes import Axis, Cell
from coprs_lightning.cli_configs import CONFIG_OPTIONS, Option, is_config_name, load_yaml, options
from coprs_lightning.commands import UsageError

PLAN = "ablation.json"
RECORD = "cell.json"
LOG = "log.txt"
RESULTS = "results.json"
FORMAT = 1

OWN_OPTIONS = {
    "--seed_everything": "the seeds are those of --seeds",
    "--trainer.default_root_dir": "every run has a folder of its own below --output",
    "--ckpt_path": "every cell starts afresh; to start all of them from the same weights give --model.init_from",
    "--callbacks.results": "the table is made from what that callback writes",
    "--trainer.fast_dev_run": "it writes no results; for a short trial give --trainer.max_steps",
}
"""Options of `coprs fit` that an ablation decides, with the reason."""


@dataclass(frozen=True)
class Run:
    """One cell with one seed.

    Attributes:
        cell: name of the cell.
        seed: of this run.
        folder: of this run alone.
        words: of `coprs`, from ``fit`` on.
        digest: of the command and of what its configs hold.
    """

    cell: str
    seed: int
    folder: Path
    words: tuple[str, ...]
    digest: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.cell}, seed {self.seed}"

    def record(self) -> dict[str, Any]:
        """What stays in the folder, to know the run again."""
        return {"cell": self.cell, "seed": self.seed, "words": list(self.words), "digest": self.digest}

    def command(self) -> list[str]:
        """The command as the operating system gets it."""
        return [sys.executable, "-m", "coprs_lightning", *self.words]


@dataclass(frozen=True)
class Plan:
    """An ablation.

    Attributes:
        output: its folder.
        axes: what varies.
        mode: how axes make cells.
        cells: the base first.
        seeds: of every cell.
        configs: paths of the base's configs.
        extra: options that every cell gets; ``{seed}`` in them stands for the seed.
    """

    output: Path
    axes: list[Axis]
    mode: str
    cells: list[Cell]
    seeds: list[int]
    configs: list[str]
    extra: list[str]

    def words(self, cell: Cell) -> list[str]:
        """Options of `coprs fit` for a cell, without what differs between seeds."""
        configs = [word for path in [*self.configs, *cell.overlays] for word in ("--config", path)]
        return [*configs, *self.extra]

    def runs(self) -> list[Run]:
        """Every run, one seed after the other, so that an ablation that is cut short still compares."""
        return [self._run(cell, seed) for seed in self.seeds for cell in self.cells]

    def _run(self, cell: Cell, seed: int) -> Run:
        folder = self.output / "cells" / cell.name / f"seed-{seed}"
        given = [word.replace("{seed}", str(seed)) for word in self.words(cell)]
        own = ["--seed_everything", str(seed), "--trainer.default_root_dir", str(folder)]
        words = ("fit", *given, *own)
        return Run(cell.name, seed, folder, words, digest(list(words)))

    def write(self) -> None:
        """Leave the plan in the output folder, for ``--report-only`` and for people."""
        axes = {axis.name: {v.name: v.file for v in axis.variants} for axis in self.axes}
        content = {
            "format": FORMAT,
            "configs": self.configs,
            "extra": self.extra,
            "mode": self.mode,
            "axes": axes,
            "seeds": self.seeds,
            "cells": {cell.name: cell.overlays for cell in self.cells},
            "runs": [{**run.record(), "folder": str(run.folder.relative_to(self.output))} for run in self.runs()],
        }
        write_json(self.output / PLAN, content)


def read_plan(output: Path) -> tuple[list[str], list[Run]]:
    """Names of the cells, the base first, and runs of an ablation that was started before.

    Raises:
        UsageError: where there is none.
    """
    try:
        content = json.loads((output / PLAN).read_text(encoding="utf-8"))
        runs = [
            Run(r["cell"], r["seed"], output / r["folder"], tuple(r["words"]), r["digest"]) for r in content["runs"]
        ]
        return list(content["cells"]), runs
    except FileNotFoundError:
        raise UsageError(
            f"--report-only: {output} holds no ablation (no {PLAN}). Name its folder by --output."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--report-only: {output / PLAN} cannot be read: {error!r}.") from error


def check_extra(words: list[str]) -> None:
    """Refuse options that the ablation decides itself, and words that are none.

    Raises:
        UsageError: naming the option and the reason.
    """
    for option in options(words):
        if not option.name.startswith("-"):
            raise UsageError(f"{option.name!r} belongs to no option. Options for every cell are those of `coprs fit`.")
        for own, reason in OWN_OPTIONS.items():
            if option.name == own or option.name.startswith(f"{own}."):
                raise UsageError(f"{option.name} cannot be given to the cells of an ablation: {reason}.")


def digest(words: list[str]) -> str:
    """Fingerprint of a command: its words, and the content of every config they name, comments aside.

    A config that was edited since makes another run of the same words.
    """
    told: list[Any] = []
    for option in options(words):
        value: Any = option.value
        if value is not None and (option.name in CONFIG_OPTIONS or is_config_name(value)) and Path(value).is_file():
            value = [Path(value).name, _content(Path(value))]
        elif option.name == "--trainer.default_root_dir":  # the folder may have been moved
            value = None
        told.append([Option(option.name, None).name, value])
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _content(file: Path) -> Any:
    """A config with the files that it names in their places."""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [filled(item) for item in value]
        if is_config_name(value) and (file.parent / value).is_file():
            return _content(file.parent / value)
        return value

    return filled(load_yaml(file))
