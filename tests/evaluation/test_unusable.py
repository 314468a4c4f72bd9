"""Names of examples that are missing, with what the reader itself reads as the oracle."""

from __future__ import annotations

from pathlib import Path

import pytest

from coprs_lightning.evaluation.plan import Split
from coprs_lightning.evaluation.unusable import unusable_keys
from datamodules.shard_datamodule import ShardDataModule
from datamodules.shard_index import read_index
from tests.datamodules.build import make_split


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Two splits read as one."""
    made = tmp_path_factory.mktemp("unusable")
    folders = (str(make_split(made / "a", 5, targets=2, expressions=2, num_shards=2)), str(make_split(made / "b", 2)))
    return Split("both", folders, tuple(read_index(folder) for folder in folders), None)


@pytest.mark.parametrize("unit", ["target", "expression"])
@pytest.mark.parametrize("limit", [None, 1, 7, 100])
def test_what_was_read_is_not_missing_and_the_rest_is_named(split: Split, unit: str, limit: int | None) -> None:
    data = ShardDataModule(test=list(split.folders), eval_unit=unit, image_size=16, limit_examples=limit)
    data.setup("test")
    keys = [key for batch in data.test_dataloader() for key in batch.keys]
    assert unusable_keys(split, unit, set(keys), limit) == []
    left_out = set(keys[::3])
    assert set(unusable_keys(split, unit, set(keys) - left_out, limit)) == left_out


def test_samples_without_annotations_are_named_as_a_whole(tmp_path: Path) -> None:
    folder = make_split(tmp_path / "c", 2, targets=2)
    (shard,) = folder.glob("*.tar")
    shard.write_bytes(shard.read_bytes().replace(b'{"image_id"', b'["image_id"', 1))
    split = Split("c", (str(folder),), (read_index(folder),), None)
    (named,) = unusable_keys(split, "target", {"img00001/0", "img00001/1"})
    assert named.startswith("img00000 (all of its examples: bad JSON member")
