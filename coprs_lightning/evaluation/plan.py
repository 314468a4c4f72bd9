"""What is evaluated: splits from a config, or those that a run was validated and tested on."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from coprs_lightning.cli_configs import load_yaml
from coprs_lightning.commands import CommandError, UsageError
from coprs_lightning.evaluation.benchmarks import known_benchmarks
from coprs_lightning.spec import constructor_hints
from datamodules.locations import expand
from datamodules.shard_index import ShardError, ShardIndex, Unit, read_index

UNITS: tuple[Unit, ...] = ("target", "expression")
DATA_CLASS = "datamodules.shard_datamodule.ShardDataModule"

_KEYS = ("splits", "batch_size", "num_workers", "data")
_SPLIT_KEYS = ("folder", "benchmark")
_NEEDED = ("test", "eval_unit", "eval_batch_size", "num_workers", "max_bad_fraction", "limit_examples")


@dataclass(frozen=True)
class Split:
    """One split to evaluate.

    Attributes:
        name: what it is called in the results.
        folders: folders of shards that are read as one.
        indexes: their indexes.
        benchmark: the published split that it is (``refcoco-unc-val``), ``None`` where it is none.
    """

    name: str
    folders: tuple[str, ...]
    indexes: tuple[ShardIndex, ...]
    benchmark: str | None

    def examples(self, unit: Unit) -> int:
        """Examples of the split."""
        return sum(index.examples(unit) for index in self.indexes)

    @property
    def sha256(self) -> list[str]:
        """Checksum of every index, which holds the checksums of the shards."""
        return [index.sha256 for index in self.indexes]


@dataclass(frozen=True)
class Plan:
    """Which data is evaluated and how it is read.

    Attributes:
        splits: in the order of the results.
        data: spec of the DataModule that reads them, with whatever options the run or config set.
        batch_size: examples a batch where the command line says nothing.
        num_workers: loader processes, likewise.
    """

    splits: tuple[Split, ...]
    data: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    num_workers: int | None = None

    def only(self, names: Sequence[str] | None) -> Plan:
        """The plan with some of its splits.

        Raises:
            UsageError: for a name that is none of them.
        """
        if names is None:
            return self
        there = {split.name: split for split in self.splits}
        for name in names:
            if name not in there:
                raise UsageError(f"--splits {name}: there is no such split.{_near(name, there)}")
        chosen = tuple(there[name] for name in dict.fromkeys(names))
        return Plan(chosen, self.data, self.batch_size, self.num_workers)


def plan_of_config(path: str, names: Sequence[str] | None = None) -> Plan:
    """The plan that a config of splits describes.

    Args:
        path: a YAML file with ``splits`` (name → folder, or → ``folder`` and ``benchmark``), and ``batch_size``,
            ``num_workers`` and ``data`` (a DataModule's ``class_path`` and ``init_args``) where wanted.
        names: read only these.

    Raises:
        UsageError: for a file that is no such config.
        CommandError: for a split that is not there.
    """
    content = load_yaml(path)
    _known(content, _KEYS, path)
    splits = content.get("splits")
    if not isinstance(splits, dict) or not splits:
        raise UsageError(
            f"config {path} names no splits, so there is nothing to evaluate. Write `splits:` with a line "
            "`name: folder` for each, as data/benchmarks.yaml does."
        )
    chosen = splits if names is None else {str(name): splits[name] for name in splits if str(name) in names}
    found = []
    for name, given in chosen.items():
        entry = given if isinstance(given, dict) else {"folder": given}
        _known(entry, _SPLIT_KEYS, f"{path}: splits.{name}")
        if entry.get("folder") is None:
            raise UsageError(f"config {path}: splits.{name} names no folder. Write `{name}: data/…/{name}`.")
        found.append(_split(str(name), entry["folder"], entry.get("benchmark"), f"{path}: splits.{name}"))
    missing = [name for name in names or () if name not in {str(name) for name in splits}]
    if missing:
        raise UsageError(f"--splits {missing[0]}: {path} has no such split.{_near(missing[0], splits)}")
    data = content.get("data") or {"class_path": DATA_CLASS, "init_args": {}}
    return Plan(tuple(found), data, _positive(content, "batch_size", path), _positive(content, "num_workers", path))


def plan_of_run(data: dict[str, Any] | None, where: str) -> Plan:
    """The validation and test splits of a run.

    Args:
        data: spec of the run's DataModule, as its checkpoint holds it.
        where: the checkpoint, for messages.

    Raises:
        CommandError: where nothing is known of its data, or it has no such splits.
    """
    remedy = "Name splits with --config (data/benchmarks.yaml is shipped)."
    if data is None:
        raise CommandError(f"{where} does not tell what data it was trained on: nothing to evaluate. {remedy}")
    options = data["init_args"]
    splits = []
    for name in ("val", "test"):
        if options.get(name):
            splits.append(_split(name, options[name], None, f"data.init_args.{name} of {where}", remedy))
    if not splits:
        raise CommandError(f"{where} was trained without a validation or test split. {remedy}")
    batch_size = options.get("eval_batch_size") or options.get("batch_size")
    return Plan(tuple(splits), data, batch_size, options.get("num_workers"))


def check_reader(spec: dict[str, Any], options: Sequence[str] = _NEEDED) -> None:
    """Refuse a DataModule that cannot be told what to read.

    Raises:
        CommandError: naming the options that it lacks.
    """
    from coprs_lightning.importing import import_class

    cls = import_class(spec["class_path"])
    lacking = [name for name in options if name not in constructor_hints(cls)]
    if lacking:
        raise CommandError(
            f"{cls.__name__} cannot be evaluated: it does not take {', '.join(lacking)}, as ShardDataModule does, so "
            "units and batches cannot be set. Convert the data to shards and name their folders with --config."
        )


def _split(name: str, folders: Any, benchmark: str | None, where: str, remedy: str = "") -> Split:
    listed = tuple(str(folder) for folder in ([folders] if isinstance(folders, str) else folders))
    try:
        indexes = tuple(read_index(location) for folder in listed for location in expand(folder))
    except (FileNotFoundError, ShardError) as error:
        remedy = remedy or "Convert it, mend the path, or leave it out with --splits."
        raise CommandError(f"{where}: {error} Nothing was evaluated. {remedy}") from error
    known = known_benchmarks()
    if benchmark is not None and benchmark not in known:
        raise UsageError(f"{where}: benchmark {benchmark!r} is not published.{_near(benchmark, known)}")
    if benchmark is None and len(indexes) == 1 and indexes[0].name in known:
        benchmark = indexes[0].name
    return Split(name, listed, indexes, benchmark)


def _known(content: dict[str, Any], keys: Sequence[str], where: str) -> None:
    for key in content:
        if key not in keys:
            raise UsageError(f"config {where}: {key!r} is no option here.{_near(str(key), keys)}")


def _positive(content: dict[str, Any], key: str, where: str) -> int | None:
    value, least = content.get(key), 0 if key == "num_workers" else 1
    if value is not None and (type(value) is not int or value < least):
        raise UsageError(f"config {where}: {key} must be an integer of at least {least}, got {value!r}.")
    return value


def _near(name: str, there: Any) -> str:
    names = [str(one) for one in there]
    near = difflib.get_close_matches(name, names, 1, 0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{hint} There are: {', '.join(names)}."
