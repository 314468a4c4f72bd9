"""Names the examples of a split that could not be read."""

from __future__ import annotations

from coprs_lightning.evaluation.plan import Split
from datamodules.shard_index import Unit
from datamodules.shard_reader import BadSample, parse_record, questions, read_samples


def unusable_keys(split: Split, unit: Unit, found: set[str], limit: int | None = None) -> list[str]:
    """Keys of a split's examples that are not among those found, in order; reads the annotations again.

    Args:
        split: the split.
        unit: what an example is.
        found: keys of the examples that were read.
        limit: examples that were asked for; they are the first few of every shard.

    Returns:
        keys; for a sample whose annotations cannot be read its name, with what is wrong.
    """
    total = split.examples(unit)
    limit = total if limit is None else min(limit, total)
    missing, before = [], 0
    for index in split.indexes:
        prefix = f"{index.name}/" if len(split.indexes) > 1 else ""
        for shard in index.shards:
            after = before + shard.examples(unit)
            take = limit * after // total - limit * before // total
            before = after
            for sample in read_samples(shard.path):
                if take <= 0:
                    break
                try:
                    asked = questions(parse_record(sample), unit=unit, prefix=prefix)
                except BadSample as bad:
                    missing.append(f"{prefix}{bad.key} (all of its examples: {bad.reason})")
                    continue
                missing += [one.key for one in asked[:take] if one.key not in found]
                take -= len(asked)
    return missing
