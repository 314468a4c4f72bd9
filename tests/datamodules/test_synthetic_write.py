"""The synthetic dataset on disk."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.record_json import record_from_json
from datamodules.synthetic import SyntheticScenes
from datamodules.synthetic.write import write_synthetic

SMALL: dict[str, Any] = {"train": 40, "val": 6, "test": 0, "generalisation": 4, "shards": 3, "image_size": 64}


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_bytes_depend_on_the_seed_but_not_on_the_workers(tmp_path: Path) -> None:
    summaries = write_synthetic(tmp_path / "one", seed=4, **SMALL)
    assert write_synthetic(tmp_path / "two", seed=4, workers=2, **SMALL) == summaries
    digests = _digests(tmp_path / "one")
    assert _digests(tmp_path / "two") == digests
    assert len(digests) == 3 * 4
    write_synthetic(tmp_path / "two", seed=5, overwrite=True, **SMALL)
    changed = _digests(tmp_path / "two")
    assert changed.keys() == digests.keys()
    assert not set(changed.values()) & set(digests.values())


def test_shards_hold_the_samples(tmp_path: Path) -> None:
    summaries = write_synthetic(
        tmp_path, seed=1, questions_per_image=2, shares={"attribute": 3, "position": 1}, **SMALL
    )
    assert set(summaries) == {"train", "val", "generalisation"}
    train = summaries["train"]
    assert (train.images, train.questions) == (40, 80)
    assert set(train.kinds) == {"attribute", "position"}
    assert sum(train.kinds.values()) == 80
    assert train.thought_words is not None
    assert train.longest_thought is not None
    assert 3 <= train.thought_words <= train.longest_thought <= 20
    index = json.loads((tmp_path / "train" / "index.json").read_text())
    assert index["counts"] == {"images": 40, "targets": 80, "expressions": 80}
    assert index["extra"]["seed"] == 1
    with tarfile.open(tmp_path / "train" / "00001.tar") as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    source = SyntheticScenes(1, "train", 64, 2, {"attribute": 3, "position": 1})
    image, record = source.sample(1)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(contents["train-000001.png"]))), image)
    assert record_from_json(record.key, json.loads(contents["train-000001.json"])) == record


def test_wrong_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workers must be ≥ 1, got 0"):
        write_synthetic(tmp_path, workers=0)
    with pytest.raises(ValueError, match="numbers of images ≥ 0 and not all 0"):
        write_synthetic(tmp_path, train=0, val=0, test=0, generalisation=0)
    with pytest.raises(ValueError, match="numbers of images ≥ 0 and not all 0"):
        write_synthetic(tmp_path, train=-1)
    assert not list(tmp_path.iterdir())


def test_splits_are_added_to_an_earlier_dataset(tmp_path: Path) -> None:
    write_synthetic(tmp_path, **SMALL)
    before = _digests(tmp_path)
    none: dict[str, Any] = dict.fromkeys(("train", "val", "test", "generalisation"), 0)
    summaries = write_synthetic(tmp_path, reinforce=5, reinforce_val=3, image_size=64, shards=2, **none)
    after = _digests(tmp_path)
    assert {name: after[name] for name in before} == before
    assert {Path(name).parent.name for name in set(after) - set(before)} == {"reinforce", "reinforce_val"}
    for split, images in (("reinforce", 5), ("reinforce_val", 3)):
        summary = summaries[split]
        assert (summary.images, summary.questions) == (images, 4 * images)
        assert (summary.thought_words, summary.longest_thought) == (None, None)
        index = json.loads((tmp_path / split / "index.json").read_text())
        assert index["extra"]["shares"]["unfamiliar"] == 0.6
        assert index["counts"]["images"] == images


def test_an_earlier_dataset_is_kept(tmp_path: Path) -> None:
    write_synthetic(tmp_path, **SMALL)
    before = _digests(tmp_path)
    with pytest.raises(FileExistsError, match="nothing was written"):
        write_synthetic(tmp_path, seed=1, **SMALL)
    assert _digests(tmp_path) == before
