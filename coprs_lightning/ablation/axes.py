"""What varies: axes of overlays, and the cells that they span."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coprs_lightning.cli_configs import find_config, load_yaml, options, shipped_configs
from coprs_lightning.cli_schema import suggest
from coprs_lightning.commands import UsageError

BASE = "base"
"""Name of the cell without overlays, and of the value of an axis that stands for none."""

MODES = ("grid", "one-at-a-time")
SLOTS = ("policy", "backbone", "aggregator", "heatmap_head", "decoder", "objective")


@dataclass(frozen=True)
class Variant:
    """One value of an axis.

    Attributes:
        name: short and unique on its axis, the file's name without its ending.
        file: the overlay; ``None`` leaves the base as it is.
    """

    name: str
    file: str | None


@dataclass(frozen=True)
class Axis:
    """One thing that varies.

    Attributes:
        name: of the axis, ``heatmap_head``.
        variants: its values in the order given.
    """

    name: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Cell:
    """One combination of variants; trained once for every seed.

    Attributes:
        chosen: variant of every axis that departs from the base.
    """

    chosen: tuple[tuple[str, Variant], ...] = ()

    @property
    def name(self) -> str:
        """``base``, or ``heatmap_head=film,decoder=conv``; also the name of its folder."""
        return ",".join(f"{axis}={variant.name}" for axis, variant in self.chosen) or BASE

    @property
    def overlays(self) -> list[str]:
        """Files laid over the base, in their order."""
        return [variant.file for _, variant in self.chosen if variant.file is not None]


def parse_axes(words: list[str]) -> list[Axis]:
    """Read ``name=file,file`` of every ``--axis``.

    Raises:
        UsageError: for what cannot be understood, files that are nowhere, and names that clash.
    """
    axes: list[Axis] = []
    for word in words:
        axis = _parse_axis(word)
        if any(axis.name == other.name for other in axes):
            raise UsageError(f"--axis {axis.name} is given twice. Name all of its files in one: {axis.name}=a,b,c.")
        axes.append(axis)
    return axes


def _parse_axis(word: str) -> Axis:
    name, equals, values = word.partition("=")
    files = [value.strip() for value in values.split(",") if value.strip()]
    if not equals or not files or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UsageError(
            f"--axis {word!r} cannot be understood: it must be NAME=FILE,FILE,… such as heatmap_head=film,cosine; "
            f"`{BASE}` among the files stands for the base as it is."
        )
    variants: list[Variant] = []
    for value in files:
        file = None if value == BASE else find_overlay(name, value)
        variant = Variant(BASE if file is None else Path(file).stem, file)
        same = next((other for other in variants if other.name == variant.name), None)
        if same is not None or (file is not None and variant.name == BASE):
            raise UsageError(
                f"--axis {name}: {value!r} and {same.file if same and same.file else BASE!r} would both be called "
                f"{name}={variant.name}, and their runs would share a folder. Leave one out or rename the file."
            )
        if file is not None:
            _check_slot(name, file)
        variants.append(variant)
    return Axis(name, tuple(variants))


def find_overlay(axis: str, value: str) -> str:
    """The file of one value of an axis.

    Args:
        axis: its name.
        value: a path; the path or name of a shipped config; or the name, with or without its ending, of one in
            ``configs/ablation/AXIS/`` or ``configs/model/AXIS/``.

    Raises:
        UsageError: where there is none; with those that the axis has.
    """
    if Path(value).is_file():
        return value
    folders = [shipped_configs() / group / axis for group in ("ablation", "model")]
    for folder in folders:
        for candidate in (folder / value, folder / f"{value}.yaml"):
            if candidate.is_file():
                return str(candidate)
    if value.endswith((".yaml", ".yml")) and (Path(value).name != value or not any(f.is_dir() for f in folders)):
        try:
            return find_config(value)
        except UsageError as error:
            raise UsageError(f"--axis {axis}: {error}") from error
    names = [path.stem for folder in folders for path in sorted(folder.glob("*.yaml"))]
    if names:
        raise UsageError(
            f"--axis {axis}: there is no file {value!r} here ({Path.cwd()}), and no shipped variant of that "
            f"name.{suggest(value.removesuffix('.yaml'), names, 'Variants')}"
        )
    known = sorted({p.name for g in ("ablation", "model") for p in (shipped_configs() / g).iterdir() if p.is_dir()})
    raise UsageError(
        f"--axis {axis}: there is no file {value!r} here ({Path.cwd()}), and {axis!r} is no shipped "
        f"axis.{suggest(axis, known, 'Axes')}"
    )


def _check_slot(axis: str, file: str) -> None:
    """Refuse an overlay that leaves the slot alone which the axis is named after.

    Raises:
        UsageError: naming what the file sets instead.
    """
    if axis not in SLOTS:
        return
    model = load_yaml(file).get("model")
    if not isinstance(model, dict) or axis not in model:
        found = ", ".join(f"model.{name}" for name in model) if isinstance(model, dict) else "nothing of the model"
        raise UsageError(
            f"--axis {axis}: {file} sets {found or 'nothing'}, and not model.{axis}: the table would compare the base "
            "with itself. Name another axis or another file."
        )


def cells_of(axes: list[Axis], mode: str) -> list[Cell]:
    """All cells, the base first.

    Args:
        axes: what varies.
        mode: ``grid`` for every combination, ``one-at-a-time`` for every variant beside an otherwise unchanged base.

    Raises:
        UsageError: for two overlays of one cell that set the same option differently.
    """
    departures = [[(axis.name, v) for v in axis.variants if v.file is not None] for axis in axes]
    if mode == "grid":
        values = [[(axis.name, v) for v in axis.variants] for axis in axes]
        chosen = [tuple(c for c in combination if c[1].file is not None) for combination in itertools.product(*values)]
    else:
        chosen = [(one,) for values in departures for one in values]
    cells = list(dict.fromkeys([Cell(), *(Cell(c) for c in chosen)]))
    for cell in cells:
        _check_conflicts(cell)
    return cells


def _check_conflicts(cell: Cell) -> None:
    """Refuse a cell whose later overlay overwrites an earlier one: it would not be what its name says.

    Raises:
        UsageError: naming both files and the option.
    """
    seen: dict[str, tuple[str, Any]] = {}
    for _, variant in cell.chosen:
        assert variant.file is not None  # departures only
        for option, value in leaves(load_yaml(variant.file)):
            file, before = seen.get(option, ("", value))
            if before != value:
                raise UsageError(
                    f"cell {cell.name}: {variant.file} sets {option} to {value!r}, and {file} to {before!r}; the cell "
                    "would not be what its name says. Use --mode one-at-a-time, or axes that do not overlap."
                )
            seen[option] = (variant.file, value)


def check_overrides(cells: list[Cell], extra: list[str]) -> None:
    """Refuse options for all cells that overwrite what an overlay sets: they come after it.

    Args:
        cells: all of them.
        extra: options of `coprs fit`.

    Raises:
        UsageError: naming the option and the file.
    """
    files = {variant.file: axis for cell in cells for axis, variant in cell.chosen if variant.file is not None}
    for option in options(extra):
        name = _short(option.name.lstrip("-").rstrip("+"))
        for file, axis in files.items():
            set_there = next((leaf for leaf, _ in leaves(load_yaml(file)) if _within(_short(leaf), name)), None)
            if set_there is not None:
                raise UsageError(
                    f"{option.name} would overwrite {set_there} of {file} in every cell, and --axis {axis} would "
                    "compare nothing. Leave the option out, or set it in the overlays."
                )


def _short(name: str) -> str:
    """A full name as the command line also takes it, without ``init_args``."""
    return name.replace(".init_args", "")


def _within(leaf: str, option: str) -> bool:
    return leaf == option or leaf.startswith(f"{option}.")


def leaves(content: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested mappings with its full name, ``model.decoder.class_path``."""
    for key, value in content.items():
        inner = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict) and value:
            yield from leaves(value, inner)
        else:
            yield inner, value
