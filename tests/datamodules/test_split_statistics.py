from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.records import ImageRecord, Target
from datamodules.rle import encode_mask
from datamodules.shard_reader import BadSample
from datamodules.shard_writer import ShardWriter
from datamodules.split_statistics import find_splits, mask_area, read_statistics
from tests.datamodules.build import encode_image, make_split


def rectangle(top: int, bottom: int) -> dict:
    mask = np.zeros((10, 20), dtype=bool)
    mask[top:bottom] = True
    return encode_mask(mask)


def save_mixed(folder: Path) -> Path:
    """Two images: one with a target of two overlapping instances, an ignore and a thought; one without a target."""
    targets = [
        [Target("0", ["one two", "three"], [rectangle(0, 4), rectangle(2, 5)], rectangle(8, 9), "because", "count")],
        [Target("0", ["nothing here at all"], []), Target("1", ["all"], [rectangle(0, 10)])],
    ]
    with ShardWriter(folder, name="mixed", source="drawn", licence="CC0-1.0", images_per_shard=1) as writer:
        for number, items in enumerate(targets):
            record = ImageRecord(f"k{number}", str(number), "a.png", 10, 20, items)
            writer.write(record, encode_image(np.full((10, 20, 3), 60 * number, np.uint8)), "png")
    return folder


def test_counts(tmp_path: Path) -> None:
    statistics = read_statistics(save_mixed(tmp_path / "a"))
    assert (statistics.images, statistics.targets, statistics.expressions) == (2, 3, 4)
    assert (statistics.no_target, statistics.with_ignore, statistics.with_reasoning) == (1, 1, 1)
    assert statistics.kinds == {"count": 1, "(none)": 2}
    assert statistics.words == [2, 1, 4, 1]
    assert statistics.areas == [0.5, 0, 1]  # overlapping instances count once
    assert statistics.sizes == {(10, 20): 2}
    assert statistics.first == ["one two", "three", "nothing here at all", "all"]
    assert statistics.panels == []


def test_area_of_one_mask_without_expanding_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((9, 13)) < rng.random()
        assert mask_area(Target("0", ["a"], [encode_mask(mask)]), 9, 13) == mask.sum()


def test_panels(tmp_path: Path) -> None:
    folder = save_mixed(tmp_path / "a")
    panels = read_statistics(folder, panels=99).panels
    assert [(panel.title, panel.question) for panel in panels] == [
        ("k0/0 · count", "one two"),
        ("k1/0", "nothing here at all"),
        ("k1/1", "all"),
    ]
    assert [int(panel.mask.sum()) for panel in panels] == [100, 0, 200]
    assert panels[0].ignore is not None
    assert panels[0].ignore.sum() == 20
    assert panels[1].ignore is None
    assert [int(panel.image.mean()) for panel in panels] == [0, 60, 60]


def test_the_choice_follows_the_seed(tmp_path: Path) -> None:
    folder = make_split(tmp_path / "a", 30, targets=2, num_shards=3)
    choices = [{p.title for p in read_statistics(folder, panels=6, seed=seed).panels} for seed in (0, 0, 1)]
    assert len(choices[0]) == 6
    assert choices[0] == choices[1] != choices[2]


def test_find_splits(tmp_path: Path) -> None:
    for name in ("b/val", "a"):
        make_split(tmp_path / name, 1)
    assert find_splits(tmp_path) == [tmp_path / "a", tmp_path / "b/val"]
    assert find_splits(tmp_path / "a") == [tmp_path / "a"]
    with pytest.raises(FileNotFoundError, match="nowhere is no folder; name a split"):
        find_splits(tmp_path / "nowhere")
    (tmp_path / "c").mkdir()
    with pytest.raises(FileNotFoundError, match=r"c holds no split \(a folder with index\.json"):
        find_splits(tmp_path / "c")


def test_a_malformed_mask_is_named(tmp_path: Path) -> None:
    folder = save_mixed(tmp_path / "a")
    shard = folder / "00001.tar"
    counts = json.dumps(rectangle(0, 10)["counts"]).encode()
    data = shard.read_bytes()
    assert data.count(counts) == 1
    shard.write_bytes(data.replace(counts, b'"' + b"1" * (len(counts) - 2) + b'"'))
    with pytest.raises(BadSample, match=r"sample 'k1' of .*00001\.tar: mask counts"):
        read_statistics(folder)
