"""Writes one split from converted images and keeps account of what was left out and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.identity import fingerprint
from datamodules.convert.ordered_map import ordered_map
from datamodules.convert.photos import Photo
from datamodules.records import ImageRecord
from datamodules.shard_index import ShardError, ShardIndex, read_index
from datamodules.shard_writer import ShardWriter, remove_leftovers

MADE_FROM = "made_from"
"""Under ``extra`` in the index: the fingerprint of options and source, see :mod:`datamodules.convert.identity`."""

REVISION = 1
"""Part of the fingerprint; raised when converters make other records of the same source than before."""

UNCHANGED = "unchanged: made of the same source by the same options"

_SHOWN = 5


@dataclass
class Converted:
    """What became of one image.

    Attributes:
        record: the sample, or ``None`` when nothing of it can be used.
        photo: the image of ``record``.
        problems: items that could not be converted.
        notes: things done that the user should know of, with their number.
        areas: mask area of each target as a share of the image.
    """

    record: ImageRecord | None = None
    photo: Photo | None = None
    problems: list[BadItemError] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    areas: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class WriteOptions:
    """How splits are written.

    Attributes:
        licence: licence of the data.
        shards: shards a split, ``None`` for one per 256 images.
        workers: processes; the result does not depend on it.
        overwrite: replace splits that are there.
        max_skipped: share of the items that may be unusable before the conversion fails.
    """

    licence: str
    shards: int | None = None
    workers: int = 1
    overwrite: bool = False
    max_skipped: float = 0.0


@dataclass
class SplitPlan:
    """One split to convert.

    Attributes:
        output: folder of the split.
        name: name of the split.
        source: where the data came from.
        unit: what is counted against ``max_skipped``: ``"images"`` or ``"refs"``.
        items: number of them.
        jobs: one job an image, each passed to the converter.
        extra: plain data for the index.
        problems: items known to be unusable before converting.
        notes: see :class:`Converted`.
        made_of: files and plain data that stand for the jobs in the fingerprint, where jobs are dear to make.
    """

    output: Path
    name: str
    source: str
    unit: str
    items: int
    jobs: Sequence[Any]
    extra: dict[str, Any]
    problems: list[BadItemError] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    made_of: Any = None


@dataclass
class SplitSummary:
    """What was written of a split.

    Attributes:
        name: name of the split.
        output: its folder.
        images: number of images.
        targets: number of targets.
        expressions: number of expressions.
        shards: number of shards.
        bytes: size of all shards.
        skipped: details of the unusable items under each reason.
        notes: see :class:`Converted`.
        areas: mask area of each target as a share of its image.
    """

    name: str
    output: Path
    images: int = 0
    targets: int = 0
    expressions: int = 0
    shards: int = 0
    bytes: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    areas: list[float] = field(default_factory=list)

    def skip(self, problems: Sequence[BadItemError]) -> None:
        """Add unusable items."""
        for problem in problems:
            self.skipped.setdefault(problem.reason, []).append(problem.detail)


def write_splits(
    plans: Sequence[SplitPlan],
    convert: Callable[[Any], Converted],
    options: WriteOptions,
    track: Callable[[str, int], Callable[[], None]],
) -> Iterator[SplitSummary]:
    """Convert and write splits one after the other.

    A split appears when it is whole. One that is there already, made of the same source by the same options, is kept as
    it is; so a command that was interrupted goes on with the split that it was at.

    Args:
        plans: the splits.
        convert: makes a :class:`Converted` of a job; importable by name, for it runs in worker processes.
        options: how to write.
        track: called with a split's name and number of images, gives a function to call after each image.

    Raises:
        BadSourceError: more items are unusable than ``options.max_skipped`` allows, or all of them.
        FileExistsError: another split is there already; checked for all splits before the first is converted.
    """
    writers = [_writer(plan, options) for plan in plans]
    for plan, writer in zip(plans, writers, strict=True):
        advance = track(plan.name, len(plan.jobs))
        if isinstance(writer, SplitSummary):
            for _ in range(len(plan.jobs)):
                advance()
            yield writer
        else:
            yield _write_split(plan, writer, convert, options, advance)


def _writer(plan: SplitPlan, options: WriteOptions) -> ShardWriter | SplitSummary:
    """What writes a split; or the account of one that is there, made by the same options of the same source."""
    chosen = (plan.name, plan.source, plan.extra, options.licence, options.shards, options.max_skipped)
    jobs = plan.jobs if plan.made_of is None else [plan.made_of]
    made_from = fingerprint(REVISION, chosen, [str(problem) for problem in plan.problems], jobs=jobs)
    reason = ""
    if plan.output.is_dir() and not options.overwrite:
        try:
            index = read_index(plan.output)
        except FileNotFoundError:
            pass  # the writer says what there is
        except ShardError as error:
            reason = f" It is no whole split: {error}"
        else:
            if index.extra.get(MADE_FROM) == made_from:
                remove_leftovers(plan.output)
                return _unchanged(plan, index)
            reason = f" {_difference(plan, options, index)}"
    try:
        return ShardWriter(
            plan.output,
            name=plan.name,
            source=plan.source,
            licence=options.licence,
            num_shards=options.shards,
            extra={**plan.extra, MADE_FROM: made_from},
            overwrite=options.overwrite,
        )
    except FileExistsError as error:
        raise FileExistsError(f"{error}{reason}") from error


def _difference(plan: SplitPlan, options: WriteOptions, index: ShardIndex) -> str:
    """Why a split that is there is not what would be written now."""
    now = {"name": plan.name, "licence": options.licence, **plan.extra}
    there = {"name": index.name, "licence": index.licence, **index.extra}
    found = [f"{key} {there.get(key)!r} (now {value!r})" for key, value in now.items() if there.get(key) != value]
    if found:
        return f"It was made with other options: {', '.join(found)}."
    return "It was made by the same converter, but its source, or --shards or --max-skipped, was another."


def _unchanged(plan: SplitPlan, index: ShardIndex) -> SplitSummary:
    return SplitSummary(
        plan.name,
        plan.output,
        images=index.images,
        targets=index.examples("target"),
        expressions=index.examples("expression"),
        shards=len(index.shards),
        bytes=sum(shard.bytes for shard in index.shards),
        notes=Counter({UNCHANGED: 1}),
    )


def _write_split(
    plan: SplitPlan,
    writer: ShardWriter,
    convert: Callable[[Any], Converted],
    options: WriteOptions,
    advance: Callable[[], None],
) -> SplitSummary:
    summary = SplitSummary(plan.name, plan.output, notes=Counter(plan.notes))
    summary.skip(plan.problems)
    with writer:
        for result in ordered_map(convert, plan.jobs, options.workers):
            advance()
            summary.skip(result.problems)
            summary.notes += result.notes
            if result.record is None or result.photo is None:
                continue
            try:
                writer.write(result.record, result.photo.data, result.photo.extension)
            except ValueError as error:
                summary.skip([BadItemError("refused by the shard writer", str(error))])
                continue
            summary.images += 1
            summary.targets += len(result.record.targets)
            summary.expressions += sum(len(target.expressions) for target in result.record.targets)
            summary.areas += result.areas
        _check_limit(plan, summary, options.max_skipped)
    shards = list(plan.output.glob("*.tar"))
    summary.shards, summary.bytes = len(shards), sum(shard.stat().st_size for shard in shards)
    return summary


def _check_limit(plan: SplitPlan, summary: SplitSummary, limit: float) -> None:
    skipped = sum(len(details) for details in summary.skipped.values())
    if summary.images and skipped <= limit * plan.items + 1e-9:  # 0.29 × 100 is a little below 29
        return
    lines = []
    for reason, details in summary.skipped.items():
        lines.append(f"  {reason} ({len(details)}):")
        lines += [f"    {detail}" for detail in details[:_SHOWN]]
        lines += [f"    … and {len(details) - _SHOWN} more"] * (len(details) > _SHOWN)
    listing = "\n".join(lines)
    share = math.ceil(100 * skipped / max(plan.items, 1)) / 100
    if not summary.images:
        lines += [f"  {note}: {number}" for note, number in summary.notes.items()]
        raise BadSourceError("\n".join([f"{plan.name}: no image is left to write, so it was not written.", *lines]))
    raise BadSourceError(
        f"{plan.name}: {skipped} of {plan.items} {plan.unit} cannot be converted, so it was not written.\n{listing}\n"
        f"Repair or remove them, or allow them to be left out with --max-skipped {share:g}."
    )
