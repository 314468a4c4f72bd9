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
    assert run.num_training_batches == 4  # of 3, 3, 3 and 1
    assert run.estimated_stepping_batches == 8
    assert run.global_step == 8
    assert probe.seen["train"][:4] != probe.seen["train"][4:]
    assert sorted(flat(probe.seen["train"][:4])) == sorted(flat(probe.seen["train"][4:]))
    assert sorted(flat(probe.seen["val"])) == sorted(2 * [f"img{number:05d}/0" for number in range(10)])
    run.test(probe, datamodule=data, verbose=False)
    run.predict(probe, datamodule=data)
    assert flat(probe.seen["test"]) == flat(probe.seen["predict"]) == flat(probe.seen["val"])[:10]


def test_validation_inside_an_epoch_and_no_validation(tmp_path, split):
    probe = Probe()
    trainer(tmp_path, max_epochs=1, val_check_interval=2).fit(probe, datamodule=module(split))
    assert len(flat(probe.seen["val"])) == 20
    alone = Probe()
    trainer(tmp_path, max_epochs=1).fit(alone, datamodule=module(split, val=None))
    assert (len(alone.seen["train"]), alone.seen["val"]) == (4, [])


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
@pytest.mark.parametrize("step", [2, 7, 8, 9])
def test_a_resumed_run_sees_what_an_unbroken_one_sees(tmp_path, split, workers, step):
    """Step 8 ends an epoch of 4 batches: the next epoch has its own order."""
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
    assert resumed.seen["train"] == whole.seen["train"][8:]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7])
@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_resuming_with_another_batch_size(tmp_path, split, step, batch_size):
    """The trainer counts the batches of the epoch that goes on as they are cut now; later epochs have their length."""
    begun, resumed = Probe(), Probe()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(tmp_path, StopAt(step), max_epochs=3).fit(begun, datamodule=module(split, val=None))
    run = trainer(tmp_path, max_epochs=3)
    run.fit(resumed, datamodule=module(split, val=None, batch_size=batch_size), ckpt_path=tmp_path / "stop.ckpt")
    seen = [
        (epoch, key)
        for probe in (begun, resumed)
        for epoch, batch in zip(probe.epochs, probe.seen["train"], strict=True)
        for key in batch
    ]
    assert Counter(seen) == Counter((epoch, f"img{number:05d}/0") for epoch in range(3) for number in range(10))
    assert resumed.epochs.count(2) == -(-10 // batch_size)
    assert run.current_epoch == 3


def test_two_processes_share_the_data(tmp_path):
    """Uneven shards of 4, 4, 4 and 1 images: every example is trained on and validated once an epoch.

    The test split fits into one batch, so one rank has nothing to test and must not fail.
    """
    split = make_split(tmp_path / "split", 13, images_per_shard=4)
    single = make_split(tmp_path / "single", 2)
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
    assert [len(rank["train"]) for rank in ranks] == [2 * 4] * 2
    first = [flat(rank["train"][:4]) for rank in ranks]
    assert sorted(first[0] + first[1]) == [f"img{number:05d}/0" for number in range(13)]
    validated = Counter(flat(ranks[0]["val"] + ranks[1]["val"]))
    assert validated == {f"img{number:05d}/0": 2 for number in range(13)}
    assert sorted(len(flat(rank["test"])) for rank in ranks) == [0, 2]


def test_several_splits_are_read_as_one(tmp_path, split):
    other = str(make_split(tmp_path / "other", 3))
    data = module([split, other])
    data.setup("fit")
    keys = {key for batch in data.train_dataloader() for key in batch.keys}
    assert {key.split("/")[0] for key in keys} == {"split", "other"}
    assert len(data.train_dataloader()) == 5  # 13 examples, 3 a batch


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


def test_more_workers_than_shards_is_no_trouble(split):
    data = module(split, num_workers=5, batch_size=1)
    data.setup("fit")
    assert len({key for batch in data.train_dataloader() for key in batch.keys}) == 10


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{a,b}/train", ["a", "b"]),
        ("*/train", ["a", "b", "c"]),
        ("[bc]/tr?in", ["b", "c"]),
        (["a/train", "c/*"], ["a", "c"]),
    ],
)
def test_patterns_name_splits(tmp_path, pattern, names):
    for name in "abc":
        make_split(tmp_path / name / "train", 2, name=name)
    patterns = [pattern] if isinstance(pattern, str) else pattern
    data = module([str(tmp_path / each) for each in patterns], val=None)
    data.setup("fit")
    assert [record["name"] for record in data.split_records["train"]] == names
    assert {key.partition("/")[0] for batch in data.train_dataloader() for key in batch.keys} == set(names)


def test_single_shards_of_a_split(tmp_path):
    split = make_split(tmp_path / "s", 8, images_per_shard=2)
    data = module(f"{split}/{{00001..00002}}.tar", val=f"{split}/00003.tar")
    data.setup("fit")
    assert {key for batch in data.train_dataloader() for key in batch.keys} == {f"img0000{n}/0" for n in (2, 3, 4, 5)}
    assert {key for batch in data.val_dataloader() for key in batch.keys} == {f"img0000{n}/0" for n in (6, 7)}
    with pytest.raises(FileNotFoundError, match=r"train: .*00009\.tar is not listed in the index\.json beside it"):
        module(f"{split}/00009.tar").setup("fit")


def test_patterns_that_fit_nothing_name_the_option(tmp_path, split):
    with pytest.raises(FileNotFoundError, match=r"data\.init_args\.train: .*nothing\* fits no folder or file"):
        module(f"{tmp_path}/nothing*").setup("fit")
    with pytest.raises(ValueError, match="its braces do not close"):
        module(f"{tmp_path}/{{a,b").setup("fit")


def test_weights_mix_splits(tmp_path):
    large, small = (make_split(tmp_path / name, count) for name, count in (("large", 18), ("small", 2)))
    data = module({str(large): 1, str(small): 3}, val=None)
    data.setup("fit")
    seen = Counter(key.partition("/")[0] for batch in data.train_dataloader() for key in batch.keys)
    assert seen == {"large": 5, "small": 15}
    assert build(json.loads(json.dumps(data.spec))).weights == [1, 3]
    shared = module({f"{tmp_path}/{{large,small}}": 2.0}, val=None)
    shared.setup("fit")
    assert len([key for batch in shared.train_dataloader() for key in batch.keys]) == 20
    with pytest.raises(ValueError, match=r"data\.init_args\.train gives '.*' the weight 0; weights must be positive"):
        module({str(large): 0})


def test_unusable_samples_are_written_to_the_run(tmp_path):
    split = make_split(tmp_path / "s", 4)
    shard = split / "00000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"\x89PNG", b"XXXX", 1))
    trainer(tmp_path / "run", max_epochs=2).fit(Probe(), datamodule=module(str(split), max_bad_fraction=0.5))
    lines = (tmp_path / "run" / "unusable_samples.jsonl").read_text().splitlines()
    assert {json.loads(line)["key"] for line in lines} == {"img00000"}


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
        ({"retries": -1}, "retries must be ≥ 0"),
        ({"cache_gigabytes": 0}, "cache_gigabytes must be positive, got 0"),
        ({"max_bad_fraction": 1.5}, r"max_bad_fraction must be in \[0, 1\), got 1\.5"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ShardDataModule(**options)
