from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from coprs_lightning.spec import build
from datamodules.shard_datamodule import ShardDataModule
from datamodules.shard_index import ShardError
from tests.datamodules.build import make_split
from tests.datamodules.probe import Probe

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """10 images of one target in 4 shards."""
    return str(make_split(tmp_path_factory.mktemp("data") / "split", 10, num_shards=4))


def module(split, **options):
    return ShardDataModule(**{"train": split, "val": split, "batch_size": 3, "image_size": 16, **options})


def trainer(folder, *callbacks, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    options = {"enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks), **quiet, **options}
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), num_sanity_val_steps=0, **options)


def flat(batches):
    return [key for batch in batches for key in batch]


@pytest.mark.parametrize("workers", [0, 2])
def test_fit_validate_test_and_predict(tmp_path, split, workers):
    data, probe = module(split, test=split, num_workers=workers, eval_batch_size=4), Probe()
    run = trainer(tmp_path, max_epochs=2)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "error", message=".*IterableDataset.*"
        )  # the loader's length is right: no advice needed
        run.fit(probe, datamodule=data)
    assert run.num_training_batches == 3
    assert run.estimated_stepping_batches == 6
    assert run.global_step == 6
    assert probe.seen["train"][:3] != probe.seen["train"][3:]
    assert sorted(flat(probe.seen["val"])) == sorted(2 * [f"img{number:05d}/0" for number in range(10)])
    run.test(probe, datamodule=data, verbose=False)
    run.predict(probe, datamodule=data)
    assert flat(probe.seen["test"]) == flat(probe.seen["predict"]) == flat(probe.seen["val"])[:10]


def test_validation_inside_an_epoch_and_no_validation(tmp_path, split):
    probe = Probe()
    trainer(tmp_path, max_epochs=1, val_check_interval=1 / 3).fit(probe, datamodule=module(split))
    assert len(flat(probe.seen["val"])) == 30
    alone = Probe()
    trainer(tmp_path, max_epochs=1).fit(alone, datamodule=module(split, val=None))
    assert (len(alone.seen["train"]), alone.seen["val"]) == (3, [])


def test_overfitting_repeats_the_same_batches(tmp_path, split):
    probe = Probe()
    trainer(tmp_path, max_epochs=3, overfit_batches=2).fit(probe, datamodule=module(split, expression="first"))
    assert probe.seen["train"][:2] == probe.seen["train"][2:4] == probe.seen["train"][4:]


class StopAt(Callback):
    """Ends the run in the middle of an epoch, after a checkpoint."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "stop.ckpt")
            raise KeyboardInterrupt


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [2, 5, 6, 7])
def test_a_resumed_run_sees_what_an_unbroken_one_sees(tmp_path, split, workers, step):
    """Steps 6 and the like end an epoch of 3 batches: the next epoch has its own order."""
    whole = Probe()
    trainer(tmp_path, max_epochs=3).fit(whole, datamodule=module(split, val=None, num_workers=workers))
    begun = Probe()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(tmp_path, StopAt(step), max_epochs=3).fit(
            begun, datamodule=module(split, val=None, num_workers=workers)
        )
    resumed = Probe()
    trainer(tmp_path, max_epochs=3).fit(
        resumed, datamodule=module(split, val=None, num_workers=workers), ckpt_path=tmp_path / "stop.ckpt"
    )
    assert begun.seen["train"] == whole.seen["train"][:step]
    assert resumed.seen["train"] == whole.seen["train"][step:]
    assert resumed.epochs == whole.epochs[step:]


def test_resuming_from_an_end_of_epoch_checkpoint(tmp_path, split):
    whole = Probe()
    keep = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(tmp_path, keep, max_epochs=3).fit(whole, datamodule=module(split))
    resumed = Probe()
    trainer(tmp_path, max_epochs=3).fit(resumed, datamodule=module(split), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert resumed.seen["train"] == whole.seen["train"][6:]


def test_two_processes_share_the_data(tmp_path):
    """Uneven shards of 4, 4, 4 and 1 images: equal training batches, and every example validated once an epoch.

    The test split has one shard, so one rank has nothing to test and must not fail.
    """
    split = make_split(tmp_path / "split", 13, images_per_shard=4)
    single = make_split(tmp_path / "single", 3)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [*command, "-m", "tests.datamodules.run_distributed", str(split), str(single), str(tmp_path)],
        cwd=REPO,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [len(rank["train"]) for rank in ranks] == [2 * (13 // 4)] * 2
    first = [set(flat(rank["train"][:3])) for rank in ranks]
    assert not first[0] & first[1]
    validated = Counter(flat(ranks[0]["val"] + ranks[1]["val"]))
    assert validated == {f"img{number:05d}/0": 2 for number in range(13)}
    assert sorted(len(flat(rank["test"])) for rank in ranks) == [0, 3]


def test_several_splits_are_read_as_one(tmp_path, split):
    other = str(make_split(tmp_path / "other", 3))
    data = module([split, other])
    data.setup("fit")
    keys = {key for batch in data.train_dataloader() for key in batch.keys}
    assert {key.split("/")[0] for key in keys} == {"split", "other"}
    assert len(data.train_dataloader()) == 13 // 3


def test_spec_rebuilds_it(split):
    data = module(split, unit="expression", seed=3)
    again = build(json.loads(json.dumps(data.spec)))
    assert (again.spec, again.seed, again.unit) == (data.spec, 3, "expression")


def test_batches_move_and_keep_their_types(split):
    data = module(split)
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.frames.device.type == moved.images[0].device.type == "meta"
    assert moved.keys == batch.keys


@pytest.mark.parametrize(
    ("stage", "option"), [("fit", "train"), ("validate", "val"), ("test", "test"), ("predict", "test")]
)
def test_a_stage_without_its_split(stage, option):
    with pytest.raises(ValueError, match=rf"{stage} needs data but data\.init_args\.{option} names none"):
        ShardDataModule().setup(stage)


def test_missing_folder_names_the_option(tmp_path, split):
    with pytest.raises(FileNotFoundError, match=r"data\.init_args\.train: .*nowhere is no folder"):
        module(str(tmp_path / "nowhere")).setup("fit")
    with pytest.raises(FileNotFoundError, match=r"data\.init_args\.val: .*has no index\.json.*It holds nothing"):
        module(split, val=str(tmp_path)).setup("fit")


def test_truncated_shard_is_met_before_the_run(tmp_path):
    whole = make_split(tmp_path / "s", 4)
    (whole / "00000.tar").write_bytes((whole / "00000.tar").read_bytes()[:-10])
    with pytest.raises(ShardError, match=r"00000\.tar has \d+ bytes but index\.json says"):
        module(str(whole)).setup("fit")


def test_too_few_shards_for_the_readers(split):
    data = module(split, num_workers=5)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"4 shards for 5 readers \(1 ranks × 5 workers\).*num_workers.*--shards"):
        data.train_dataloader()
    data = module(split, num_workers=2, limit_examples=1)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"1 shards \(with limit_examples=1\) for 2 readers"):
        data.train_dataloader()
    assert len(data.val_dataloader()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"data\.init_args\.batch_size must be ≥ 1, got 0"),
        ({"eval_batch_size": 0}, "eval_batch_size must be ≥ 1"),
        ({"shuffle_buffer": 0}, "shuffle_buffer must be ≥ 1"),
        ({"image_size": 0}, "image_size must be ≥ 1"),
        ({"limit_examples": 0}, "limit_examples must be ≥ 1"),
        ({"num_workers": -1}, "num_workers must be ≥ 0"),
        ({"seed": -1}, "seed must be ≥ 0"),
        ({"max_bad_fraction": 1.5}, r"max_bad_fraction must be in \[0, 1\), got 1\.5"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ShardDataModule(**options)
