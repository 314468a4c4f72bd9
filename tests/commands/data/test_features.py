from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from coprs_lightning.cli import main
from coprs_lightning.cli_lightning import run
from datamodules.shard_index import read_index
from tests.datamodules.build import make_split
from tests.tiny import SIDE, make_data, refused, tiny_config, write_config

TIMM = ["--backbone", "TimmBackbone", "--model.backbone.model_name", "test_resnet"]
TIMM += ["--model.backbone.out_index", "1", "--model.backbone.image_size", str(SIDE)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def words(data: Path, output: Path, *more: str) -> list[str]:
    splits = [str(data / split) for split in ("train", "val", "test")]
    return ["data", "features", "--input", *splits, "--output", str(output), *more]


def test_a_training_from_features_needs_no_backbone(data, tmp_path, capsys):
    output = tmp_path / "features"
    assert main(words(data, output, *TIMM)) == 0
    assert f"{output / 'train'}: 8 images" in capsys.readouterr().out
    described = read_index(output / "train").features
    assert (described["image_size"], described["backbone"]["init_args"]["model_name"]) == (SIDE, "test_resnet")
    content = tiny_config(output, tmp_path / "run")
    sizes = {name: described[name] for name in ("image_size", "out_channels", "stride")}
    content["model"]["backbone"] = {"class_path": "CachedBackbone", "init_args": {**sizes, "frozen": True}}
    config = write_config(tmp_path / "config.yaml", content)
    cli = run(["fit", "--config", str(config)])
    assert cli.trainer.global_step == 2
    assert main(words(data, output, *TIMM)) == 0
    assert capsys.readouterr().out.count("unchanged") == 3

    message = refused(["fit", "--config", str(config), "--model.backbone.image_size", "64"], capsys, status=1)
    assert "computed with image_size 32, model.backbone has 64" in message
    content["data"]["init_args"]["train"] = str(data / "train")
    write_config(config, content)
    message = refused(["fit", "--config", str(config)], capsys, status=1)
    assert "model.backbone is CachedBackbone, but data.init_args.train has no features" in message


def test_the_backbone_of_an_overlay_and_of_a_run(data, tmp_path, capsys):
    content = tiny_config(data, tmp_path / "run")
    content["model"]["backbone"]["init_args"]["frozen"] = True
    run(["fit", "--config", str(write_config(tmp_path / "config.yaml", content))])
    overlay = {"model": {"backbone": {**content["model"]["backbone"]}}}
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    overlay_words = ["--backbone", str(tmp_path / "overlay.yaml"), "--seed_everything", "7"]
    assert main(words(data, tmp_path / "a", *overlay_words)) == 0
    assert main(words(data, tmp_path / "b", "--checkpoint", str(tmp_path / "run"))) == 0
    sums = [read_index(tmp_path / folder / "val").features["weights_sha256"] for folder in "ab"]
    assert len(set(sums)) == 2  # random weights of two seeds
    # features of the run's own backbone are accepted when it goes on; the others' are not
    more = ["--ckpt_path", str(tmp_path / "run"), "--trainer.max_steps", "3"]
    for folder, accepted in (("b", True), ("a", False)):
        splits = [f"--data.init_args.{split}={tmp_path / folder / split}" for split in ("train", "val", "test")]
        command = ["fit", "--config", str(tmp_path / "config.yaml"), *more, *splits]
        if accepted:
            assert run(command).trainer.global_step == 3
        else:
            assert "made by another backbone than model.backbone" in refused(command, capsys, status=1)


def test_features_must_be_of_the_weights_in_the_checkpoint(data, tmp_path, capsys):
    """A checkpoint is loaded after set-up: weights of the config say nothing then."""
    content = tiny_config(data, tmp_path / "one")
    content["seed_everything"] = 1
    config = str(write_config(tmp_path / "config.yaml", content))
    run(["fit", "--config", config])  # it trains the backbone
    assert main(words(data, tmp_path / "trained", "--checkpoint", str(tmp_path / "one"))) == 0
    untrained = ["--backbone", config, "--model.backbone.frozen", "true"]
    assert main(words(data, tmp_path / "untrained", *untrained)) == 0
    test = ["test", "--ckpt_path", str(tmp_path / "one"), "--data.init_args.test"]
    run([*test, str(tmp_path / "trained" / "test")])
    for frozen in ("true", "false"):
        wrong = [*test, str(tmp_path / "untrained" / "test"), "--model.backbone.frozen", frozen]
        assert "made by another backbone than model.backbone" in refused(wrong, capsys, status=1)

    content = tiny_config(tmp_path / "trained", tmp_path / "two")
    content["model"]["backbone"]["init_args"]["frozen"] = True
    content["model"]["init_from"] = str(tmp_path / "one" / "checkpoints" / "last.ckpt")
    run(["fit", "--config", str(write_config(tmp_path / "config.yaml", content))])
    run(["test", "--ckpt_path", str(tmp_path / "two")])
    assert run(["fit", "--ckpt_path", str(tmp_path / "two"), "--trainer.max_steps", "3"]).trainer.global_step == 3


def test_a_run_in_half_precision_goes_on(data, tmp_path, capsys):
    """Its checkpoint holds the backbone's weights rounded; they are still those that made the features."""
    content = tiny_config(data, tmp_path / "run")
    content["seed_everything"] = 1
    content["trainer"]["precision"] = "bf16-true"
    content["model"]["backbone"]["init_args"]["frozen"] = True
    assert main(words(data, tmp_path / "f", "--backbone", str(write_config(tmp_path / "config.yaml", content)))) == 0
    splits = {split: str(tmp_path / "f" / split) for split in ("train", "val", "test")}
    content["data"]["init_args"].update(splits)
    config = str(write_config(tmp_path / "config.yaml", content))
    run(["fit", "--config", config])
    more = ["--ckpt_path", str(tmp_path / "run"), "--trainer.max_steps", "3"]
    assert run(["fit", "--config", config, *more]).trainer.global_step == 3


def test_what_is_refused(data, tmp_path, capsys):
    make_split(tmp_path / "other" / "val", 1)
    twice = ["data", "features", "--input", str(data / "val"), str(tmp_path / "other" / "val"), "--output", "x", *TIMM]
    assert "--input names two splits of the same folder name (val, val)" in refused(twice, capsys, status=1)
    both = words(data, tmp_path / "o", "--checkpoint", "runs/a", "--backbone", "TimmBackbone")
    assert "--checkpoint brings its backbone; leave out --backbone" in refused(both, capsys, status=1)
    none = words(data, tmp_path / "o", "--backbone", "CachedBackbone")
    assert "CachedBackbone computes nothing" in refused(none, capsys, status=1)
    trained = words(data, tmp_path / "o", *TIMM, "--model.backbone.frozen", "false")
    message = refused(trained, capsys, status=1)
    assert "the config trains the backbone (TimmBackbone, frozen: false)" in message
    assert "--model.backbone.frozen true" in message
    device = words(data, tmp_path / "o", *TIMM, "--device", "nonsense")
    assert "--device nonsense: " in refused(device, capsys, status=1)
    shard = ["data", "features", "--input", str(data / "val" / "00000.tar"), "--output", "x", *TIMM]
    assert f"00000.tar is one shard of a split; name its folder {data / 'val'}" in refused(shard, capsys, status=1)
    missing = ["data", "features", "--input", str(tmp_path / "no"), "--output", "x", *TIMM]
    assert "--input: " in refused(missing, capsys, status=1)
    assert "no is no folder" in refused(missing, capsys, status=1)
