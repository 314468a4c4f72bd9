"""Names the examples of a split that could not be read."""

from __future__ import annotations

from coprs_lightning.evaluation.plan import Split
from datamodules.shard_index import Unit
from datamodules.shard_plan import portions
from datamodules.shard_reader import BadSample, parse_record, questions, read_samples


def unusable_keys(split: Split, unit: Unit, found: set[str], limit: int | None = None) -> list[str]:
    """Keys of a split's examples that are not among those found, in order; reads the annotations again.

    Args:
        split: the split.
        unit: what an example is.
        found: keys of the examples that were read.
        limit: as in reading.

    Returns:
        keys; for a sample whose annotations cannot be read its name, with what is wrong.
    """
    missing = []
    for portion in portions(split.indexes, unit, limit):
        taken = 0
        for sample in read_samples(portion.path):
            if taken >= portion.examples and not portion.whole:
                break
            try:
                asked = questions(parse_record(sample), unit=unit, prefix=portion.prefix)
            except BadSample as bad:
                missing.append(f"{portion.prefix}{bad.key} (all of its examples: {bad.reason})")
                continue
            asked = asked if portion.whole else asked[: portion.examples - taken]
            taken += len(asked)
            missing += [one.key for one in asked if one.key not in found]
    return missing
