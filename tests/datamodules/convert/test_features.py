from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from coprs_lightning.backbones import SamBackbone
from coprs_lightning.cli import main
from coprs_lightning.decoders import ConvMaskDecoder
from coprs_lightning.features.description import describe
from coprs_lightning.features.encoding import Encoder
from coprs_lightning.heatmap_heads import CrossAttentionHead
from datamodules.convert.errors import BadSourceError
from datamodules.convert.features import Work, write_features
from datamodules.shard_datamodule import ShardDataModule
from datamodules.shard_index import read_index
from datamodules.shard_reader import read_samples
from tests.datamodules.build import make_split
from tests.features.test_description import small
from tests.parts import small_model, small_policy
from tests.sam_checkpoint import save_sam

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """10 images of 2 targets in 4 shards."""
    folder = tmp_path_factory.mktemp("data") / "split"
    return make_split(folder, 10, targets=2, expressions=2, images_per_shard=3)


def work(backbone=None, **options):
    backbone = small() if backbone is None else backbone
    encoder = Encoder(backbone.eval(), torch.device("cpu"))
    return Work(encoder, describe(backbone), **{"batch_size": 4, "threads": 2, **options})


def write(split, output, how=None):
    done = []
    changed = write_features(read_index(split), output, how or work(), done.append)
    return changed, sum(done)


def test_the_copy_is_the_split_with_features(split, tmp_path):
    output = tmp_path / "out"
    assert write(split, output) == (True, 10)
    source, copy = read_index(split), read_index(output)
    copy.verify()
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in split.iterdir())
    assert not list(tmp_path.glob(".*"))
    assert (copy.name, copy.licence, copy.extra) == (source.name, source.licence, source.extra)
    assert copy.features == {**describe(small()), "source_index_sha256": source.sha256}
    for mine, theirs in zip(copy.shards, source.shards, strict=True):
        assert np.array_equal(mine.samples[1:], theirs.samples[1:])
        for sample, original in zip(read_samples(mine.path), read_samples(theirs.path), strict=True):
            features = sample.pop("features.npy")
            assert len(features) > 32 * 8 * 8 * 2
            assert {**sample, "__url__": ""} == {**original, "__url__": ""}


def test_a_second_time_nothing_is_done(split, tmp_path):
    output = tmp_path / "out"
    write(split, output)
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert write(split, output) == (False, 10)
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before


def test_another_backbone_needs_leave(split, tmp_path):
    output = tmp_path / "out"
    write(split, output)
    other = small(image_size=64)
    with pytest.raises(
        BadSourceError, match=r"holds features of another backbone, image size \(32 there, 64 now\).*--overwrite"
    ):
        write(split, output, work(other))
    assert write(split, output, work(other, overwrite=True)) == (True, 10)
    assert read_index(output).features["image_size"] == 64
    assert not list(tmp_path.glob(".*"))


def test_other_files_are_not_replaced(split, tmp_path):
    (tmp_path / "out").mkdir()
    assert write(split, tmp_path / "out")[0]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(BadSourceError, match="is there and no split; name another folder"):
        write(split, tmp_path / "mine", work(overwrite=True))


def test_the_source_is_not_replaced_and_no_other_plain_split(split, tmp_path):
    before = {path.name: path.read_bytes() for path in split.iterdir()}
    with pytest.raises(BadSourceError, match="is the split that features are computed of; name another folder"):
        write(split, split, work(overwrite=True))
    (tmp_path / "link").symlink_to(split)
    with pytest.raises(BadSourceError, match="is the split that features are computed of"):
        write(split, tmp_path / "link", work(overwrite=True))
    assert {path.name: path.read_bytes() for path in split.iterdir()} == before
    make_split(tmp_path / "other", 2)
    with pytest.raises(BadSourceError, match="is a split without features; name another folder"):
        write(split, tmp_path / "other", work(overwrite=True))


def test_another_torch_makes_the_same_features(split, tmp_path):
    how = work()
    how.description["torch"] = "1.0"
    write(split, tmp_path / "out", how)
    assert write(split, tmp_path / "out") == (False, 10)


def kill_at_the_end(output, *, moved):
    """The files as they are where a process is killed before, or after, the finished split is moved into place."""
    partial = output.with_name(f".{output.name}.features-partial")
    partial.mkdir()
    content = json.loads((output / "index.json").read_text())
    (partial / "plan.json").write_text(json.dumps(content["features"]))
    for entry in content["shards"]:
        (partial / f"{entry['file']}.json").write_text(json.dumps(entry))
    if not moved:
        output.rename(partial / "split")
    return partial


@pytest.mark.parametrize("moved", [False, True])
def test_a_kill_in_the_last_moment(split, tmp_path, moved):
    output = tmp_path / "out"
    write(split, output)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in output.glob("*.tar")}
    kill_at_the_end(output, moved=moved)
    assert write(split, output) == (not moved, 10)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in output.glob("*.tar")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_kill_while_an_old_output_is_replaced(split, tmp_path):
    output = tmp_path / "out"
    write(split, output)
    partial = kill_at_the_end(output, moved=False)
    shutil.copytree(split, partial / "replaced")
    assert write(split, output) == (True, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_finished_shard_that_is_not_whole_is_made_again(split, tmp_path):
    output = tmp_path / "out"
    write(split, output)
    wanted = read_index(output).shards
    partial = kill_at_the_end(output, moved=False)
    with (partial / "split" / "00001.tar").open("r+b") as file:
        file.truncate(1000)
    assert write(split, output) == (True, 10)
    assert read_index(output).shards == wanted
    read_index(output).verify()


def test_work_that_was_begun_with_another_backbone_is_not_mixed(split, tmp_path):
    output = tmp_path / "out"
    write(split, output)
    partial = kill_at_the_end(output, moved=False)
    (partial / "split" / "00001.tar").unlink()
    message = rf"was begun with another backbone, image size \(32 there, 64 now\).*remove {partial} to start again"
    with pytest.raises(BadSourceError, match=message):
        write(split, output, work(small(image_size=64)))
    assert write(split, output) == (True, 10)


def test_features_that_overflow_are_refused(split, tmp_path):
    backbone = small()
    backbone.register_forward_hook(lambda module, inputs, output: output * 1e9)
    with pytest.raises(
        BadSourceError, match=r"sample 'img0000\d' of .*: its features are not finite as 16-bit numbers"
    ):
        write(split, tmp_path / "out", work(backbone))
    assert not (tmp_path / "out").exists()


def test_two_at_once_are_refused(split, tmp_path):
    import fcntl

    partial = tmp_path / ".out.features-partial"
    partial.mkdir()
    with (partial / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BadSourceError, match="another process is computing features"):
            write(split, tmp_path / "out")


COMMAND = ["--backbone", "TimmBackbone", "--model.backbone.model_name", "test_resnet"]
COMMAND += ["--model.backbone.out_index", "1", "--model.backbone.image_size", "32"]


def words(split, output):
    return ["data", "features", "--input", str(split), "--output", str(output), *COMMAND, "--batch-size", "1"]


def command(split, output):
    return subprocess.Popen(
        [sys.executable, "-m", "coprs_lightning", *words(split, output)],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_kill_9_and_go_on(tmp_path):
    """What was done before the kill is not done again, and the result is that of an undisturbed run."""
    split = make_split(tmp_path / "split", 400, images_per_shard=8)
    output = tmp_path / "out"
    running = command(split, output)
    partial = output / ".split.features-partial"
    deadline = time.monotonic() + 120
    while len(list(partial.glob("*.tar.json"))) < 3:
        assert time.monotonic() < deadline
        assert running.poll() is None, running.communicate()[0]
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.wait(60)
    assert not (output / "split").exists()
    shards = [path for path in partial.glob("split/*.tar") if (partial / f"{path.name}.json").exists()]
    done = {path.name: path.stat().st_mtime_ns for path in shards}
    assert 3 <= len(done) < 50

    again = command(split, output)
    assert again.wait(200) == 0, again.communicate()[0]
    assert {name: (output / "split" / name).stat().st_mtime_ns for name in done} == done
    assert main(words(split, tmp_path / "whole")) == 0
    sums = [[shard.sha256 for shard in read_index(folder / "split").shards] for folder in (output, tmp_path / "whole")]
    assert sums[0] == sums[1]
    read_index(output / "split").verify()


@pytest.mark.parametrize("kind", ["timm", "sam"])
def test_masks_are_those_of_live_features(split, tmp_path, kind):
    if kind == "timm":
        model = small_model()
    else:
        save_sam(tmp_path / "sam")
        backbone = SamBackbone(pretrained=str(tmp_path / "sam"), frozen=True)
        channels = backbone.out_channels
        policy = small_policy()
        head = CrossAttentionHead(query_dim=policy.hidden_size, in_channels=channels, dim=16)
        decoder = ConvMaskDecoder(in_channels=channels, hidden=8, depth=1)
        model = small_model(policy=policy, backbone=backbone, heatmap_head=head, decoder=decoder)
    model.eval()
    write(split, tmp_path / "out", work(model.backbone))
    found = []
    for folder in (split, tmp_path / "out"):
        data = ShardDataModule(val=str(folder), eval_batch_size=20, image_size=model.image_size)
        data.setup("validate")
        (batch,) = data.val_dataloader()
        assert (batch.features is None) == (folder == split)
        prompts = model.policy.encode_prompts(batch.images, batch.questions)
        completions = model.policy.encode_completions([f"it is number {i}" for i in range(20)])
        with torch.no_grad():
            found.append(model(batch, prompts, completions))
    for name in ("heatmap_logits", "mask_logits"):
        live, kept = (getattr(output, name) for output in found)
        assert live.std() > 1e-3
        difference = float((live - kept).abs().max() / live.abs().max())
        print(kind, name, difference)
        assert difference <= 1e-2
    assert json.loads((tmp_path / "out" / "index.json").read_text())["features"]["dtype"] == "float16"
