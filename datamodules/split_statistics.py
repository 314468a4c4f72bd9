"""Counts over a split, and panels of a random choice of its targets."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datamodules.contact_sheet import Panel
from datamodules.records import ImageRecord, Target
from datamodules.rle import mask_runs, union_masks
from datamodules.shard_index import ShardIndex, read_index
from datamodules.shard_reader import BadSample, parse_image, parse_record, read_samples
from datamodules.shard_writer import INDEX_NAME

_EXAMPLES = 5


@dataclass
class SplitStatistics:
    """What a split holds.

    Attributes:
        index: its index.
        images: number of images.
        targets: number of targets.
        expressions: number of expressions.
        no_target: targets whose mask is empty.
        with_ignore: targets with pixels to ignore.
        with_reasoning: targets with a written thought.
        kinds: targets of each kind of question.
        words: number of words of each expression.
        areas: mask area of each target as a share of its image.
        sizes: number of images of each (height, width).
        first: the first expressions.
        panels: pictures of the chosen targets.
    """

    index: ShardIndex
    images: int = 0
    targets: int = 0
    expressions: int = 0
    no_target: int = 0
    with_ignore: int = 0
    with_reasoning: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    words: list[int] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)

    def add(self, record: ImageRecord) -> None:
        """Count one image."""
        self.images += 1
        self.sizes[record.height, record.width] += 1
        for target in record.targets:
            area = mask_area(target, record.height, record.width) / (record.height * record.width)
            self.targets += 1
            self.expressions += len(target.expressions)
            self.no_target += int(area == 0)
            self.with_ignore += int(target.ignore is not None)
            self.with_reasoning += int(target.reasoning is not None)
            self.kinds[target.kind or "(none)"] += 1
            self.words += [len(expression.split()) for expression in target.expressions]
            self.areas.append(area)
            self.first += target.expressions[: _EXAMPLES - len(self.first)]


def mask_area(target: Target, height: int, width: int) -> int:
    """Pixels of a target's mask."""
    if len(target.masks) == 1:  # no need to expand it
        return int(mask_runs(target.masks[0])[1::2].sum())
    return int(union_masks(target.masks, height, width).sum())


def find_splits(path: Path) -> list[Path]:
    """The split that ``path`` is, or all splits below it, in the order of their names.

    Raises:
        FileNotFoundError: no split there.
    """
    if (path / INDEX_NAME).is_file():
        return [path]
    found = sorted(index.parent for index in path.rglob(INDEX_NAME)) if path.is_dir() else []
    if not found:
        kind = "is no folder" if not path.is_dir() else f"holds no split (a folder with {INDEX_NAME} and *.tar)"
        raise FileNotFoundError(f"{path} {kind}; name a split or a folder of splits.")
    return found


def read_statistics(folder: Path, *, panels: int = 0, seed: int = 0) -> SplitStatistics:
    """Read a whole split.

    Args:
        folder: the split.
        panels: how many targets to draw, chosen at random.
        seed: seed of the choice.

    Raises:
        FileNotFoundError: the split is incomplete.
        ShardError: a shard is damaged.
        BadSample: a sample is malformed.
    """
    statistics = SplitStatistics(read_index(folder))
    total = statistics.index.examples("target")
    chosen = set(random.Random(f"{seed}/{statistics.index.name}").sample(range(total), min(panels, total)))
    for shard in statistics.index.shards:
        for sample in read_samples(shard.path):
            record = parse_record(sample)
            wanted = [place for place in range(len(record.targets)) if statistics.targets + place in chosen]
            try:
                statistics.add(record)
                if wanted:
                    image = parse_image(sample, record)
                for place in wanted:
                    statistics.panels.append(_panel(record, record.targets[place], image))
            except ValueError as error:
                raise BadSample(record.key, str(shard.path), str(error)) from error
    return statistics


def _panel(record: ImageRecord, target: Target, image: np.ndarray) -> Panel:
    mask = union_masks(target.masks, record.height, record.width)
    ignore = None if target.ignore is None else union_masks([target.ignore], record.height, record.width)
    kind = f" · {target.kind}" if target.kind else ""
    return Panel(image, mask, ignore, f"{record.key}/{target.target_id}{kind}", target.expressions[0])
