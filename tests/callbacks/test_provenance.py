"""The record of what produced a run."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

import coprs_lightning
from callbacks.provenance import Provenance
from datamodules.shard_datamodule import ShardDataModule
from tests.callbacks.tiny import FRAME, TinySegmenter, loader, trainer
from tests.datamodules.build import make_split


def read(path):
    return json.loads(path.read_text())


def test_a_run_records_code_data_and_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    monkeypatch.setattr("sys.argv", ["coprs", "fit", "--config", "my config.yaml"])
    split = make_split(tmp_path / "pictures", 4)
    logger = CSVLogger(tmp_path, name="csv")
    run = trainer(tmp_path, Provenance(), logger=logger, max_steps=1)
    run.fit(TinySegmenter(), datamodule=ShardDataModule(train=[str(split)], batch_size=2, image_size=FRAME))
    record = read(tmp_path / "csv" / "version_0" / "provenance.json")
    assert (record["status"], record["stage"], record["error"], record["seed"]) == ("finished", "fit", None, 7)
    assert record["start"] <= record["end"]
    assert record["command"] == "coprs fit --config 'my config.yaml'"
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert record["versions"]["python"] == platform.python_version()
    assert record["versions"]["coprs_lightning"] == coprs_lightning.__version__
    assert (record["machine"]["world_size"], record["machine"]["device"]) == (1, "cpu")
    checksum = hashlib.sha256((split / "index.json").read_bytes()).hexdigest()
    assert record["data"] == {"train": [{"folder": str(split), "name": "pictures", "sha256": checksum}]}
    assert record["parameters"] == {
        "head": {"total": 4, "trainable": 4},
        "decoder": {"total": 2, "trainable": 2},
        "frozen": {"total": 6, "trainable": 0},
        "total": {"total": 12, "trainable": 6},
    }
    assert record["earlier"] == []


def test_the_commit_is_that_of_the_packages_checkout(tmp_path, monkeypatch):
    """A checkout of a copy of the package, clean, then changed, then installed somewhere else."""
    monkeypatch.setattr(
        "callbacks.provenance.coprs_lightning.__file__", str(tmp_path / "repo/coprs_lightning/__init__.py")
    )
    package = tmp_path / "repo" / "coprs_lightning"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")

    def git(*words):
        isolated = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path / "repo"), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=isolated).stdout.strip()

    def record():
        trainer(tmp_path, Provenance()).validate(TinySegmenter(), loader(range(2)), verbose=False)
        return read(tmp_path / "provenance.json")["git"]

    assert record() is None  # no repository
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    assert record() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (package / "__init__.py").write_text("changed = True")
    assert record() == {"commit": git("rev-parse", "HEAD"), "dirty": True}
    inside = tmp_path / "repo" / "site-packages" / "coprs_lightning" / "__init__.py"
    inside.parent.mkdir(parents=True)
    monkeypatch.setattr("callbacks.provenance.coprs_lightning.__file__", str(inside))
    assert record() is None  # somebody else's repository
    monkeypatch.setenv("PATH", str(tmp_path))
    assert record() is None  # no git


@pytest.mark.parametrize(
    ("exception", "status"), [(RuntimeError("disk full"), "failed"), (SystemExit(3), "interrupted")]
)
def test_a_run_that_broke_says_how(tmp_path, exception, status):
    class Breaks(Callback):
        def on_train_batch_end(self, trainer, *_, **__):
            assert read(tmp_path / "provenance.json")["status"] == "running"
            raise exception

    with pytest.raises(type(exception)):
        trainer(tmp_path, Provenance(), Breaks(), max_steps=2).fit(TinySegmenter(), loader(range(2)))
    record = read(tmp_path / "provenance.json")
    assert record["status"] == status
    assert record["error"] == f"{type(exception).__name__}: {exception}"
    assert record["end"]


def test_earlier_runs_in_the_folder_are_kept(tmp_path):
    run = trainer(tmp_path, Provenance(), max_steps=1)
    run.fit(TinySegmenter(), loader(range(2)))
    run.test(TinySegmenter(), loader(range(2)), verbose=False)
    trainer(tmp_path, Provenance()).validate(TinySegmenter(), loader(range(2)), verbose=False)
    record = read(tmp_path / "provenance.json")
    assert record["stage"] == "validate"
    assert [run["stage"] for run in record["earlier"]] == ["fit", "test"]
    assert all(run["status"] == "finished" and "earlier" not in run for run in record["earlier"])
    assert all(run["parameters"]["total"]["total"] == 12 for run in [record, *record["earlier"]])


def test_a_damaged_file_of_an_earlier_run_is_replaced(tmp_path):
    (tmp_path / "provenance.json").write_text('{"half')
    trainer(tmp_path, Provenance()).validate(TinySegmenter(), loader(range(2)), verbose=False)
    assert read(tmp_path / "provenance.json")["earlier"] == []


def test_a_dry_run_leaves_no_file(tmp_path):
    trainer(tmp_path, Provenance(), fast_dev_run=True).fit(TinySegmenter(), loader(range(2)))
    assert not list(tmp_path.rglob("provenance.json"))
