from __future__ import annotations

import os
from pathlib import Path

import pytest

from datamodules.convert.errors import BadSourceError
from datamodules.convert.hf_files import find_data_files, split_name


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00002-abc.parquet", "train"),
        ("refcoco/validation/0000.parquet", "val"),
        ("testA-00000-of-00001.parquet", "testA"),
        ("data/testB.arrow", "testB"),
        ("reasonseg_dev.jsonl", "val"),
        ("test/train-part.parquet", "train"),
        ("contest/data-00000-of-00001.arrow", ""),
        ("rows.jsonl", ""),
    ],
)
def test_split_in_the_name(tmp_path: Path, name: str, split: str) -> None:
    (file,) = find_data_files(str(touch(tmp_path, name)))
    assert (file.path, file.name, file.split) == (tmp_path / name, name, split)


def test_only_data_files_in_order(tmp_path: Path) -> None:
    touch(
        tmp_path, "b.parquet", "a.jsonl", "README.md", "load.py", ".cache/x.parquet", "c.ARROW", "d.json", "d/x.parquet"
    )
    assert [file.name for file in find_data_files(str(tmp_path))] == ["a.jsonl", "b.parquet", "c.ARROW", "d/x.parquet"]
    (file,) = find_data_files(str(tmp_path / "b.parquet"))
    assert file.name == "b.parquet"


def test_names_of_splits() -> None:
    assert [split_name(name) for name in ("Validation", "TESTA", "train", "mine")] == ["val", "testA", "train", "mine"]


def test_sources_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(BadSourceError, match=r"notes.md ends in none of \.parquet, \.arrow, \.jsonl"):
        find_data_files(str(touch(tmp_path, "notes.md") / "notes.md"))
    with pytest.raises(BadSourceError, match=r"holds no data file \(.parquet, .arrow, .jsonl\); found notes.md"):
        find_data_files(str(tmp_path))
    with pytest.raises(BadSourceError, match=r"--revision main is of a dataset on the hub, but .* is a folder"):
        find_data_files(str(tmp_path), "main")
    for name in (str(tmp_path / "gone/x"), "a/b/c", "../a", "a", "https://x.y/z"):
        with pytest.raises(
            BadSourceError, match="is no file, no folder, and no id of a dataset on the Hugging Face hub"
        ):
            find_data_files(name)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub as huggingface_hub lays it out, and no network."""
    from huggingface_hub import constants

    folder = tmp_path / "datasets--someone--rows"
    commit = "a" * 40
    touch(folder, "blobs/1", "blobs/2")
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(commit)
    (folder / "snapshots" / commit / "data").mkdir(parents=True)
    os.symlink("../../../blobs/1", folder / "snapshots" / commit / "data/train-00000-of-00001.parquet")
    os.symlink("../../blobs/2", folder / "snapshots" / commit / "rows.py")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def test_a_dataset_on_the_hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (file,) = find_data_files("someone/rows")
    assert (file.name, file.split) == ("data/train-00000-of-00001.parquet", "train")
    assert file.path.resolve() == hub_cache / "blobs/1"
    assert len(find_data_files("someone/rows", "a" * 40)) == 1
    with pytest.raises(
        BadSourceError, match=r"(?s)someone/others is no file or folder here, and the Hugging Face hub gave"
    ):
        find_data_files("someone/others")
