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


def test_what_is_refused(data, tmp_path, capsys):
    make_split(tmp_path / "other" / "val", 1)
    twice = ["data", "features", "--input", str(data / "val"), str(tmp_path / "other" / "val"), "--output", "x", *TIMM]
    assert "--input names two splits of the same folder name (val, val)" in refused(twice, capsys, status=1)
    both = words(data, tmp_path / "o", "--checkpoint", "runs/a", "--backbone", "TimmBackbone")
    assert "--checkpoint brings its backbone; leave out --backbone" in refused(both, capsys, status=1)
    none = words(data, tmp_path / "o", "--backbone", "CachedBackbone")
    assert "CachedBackbone computes nothing" in refused(none, capsys, status=1)
    missing = ["data", "features", "--input", str(tmp_path / "no"), "--output", "x", *TIMM]
    assert "--input: " in refused(missing, capsys, status=1)
    assert "no is no folder" in refused(missing, capsys, status=1)
