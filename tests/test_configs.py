"""Every shipped config is executed: parsed and built, and run where its weights do not come from a hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from coprs_lightning.cli import main
from coprs_lightning.cli_lightning import run
from coprs_lightning.losses.segmentation import SegmentationWeights
from datamodules.shard_writer import ShardWriter
from tests.conftest import REPO
from tests.datamodules.build import make_sample
from tests.sam_checkpoint import IMAGE_SIZE, save_sam
from tests.tiny import write_config

CONFIGS = REPO / "configs"
FAST = ["--trainer.fast_dev_run", "true"]
ON_CPU = [
    *["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.num_nodes", "1"],
    *["--trainer.strategy", "auto", "--trainer.plugins", "null"],
]


def found(pattern: str) -> list[Any]:
    paths = sorted(path for path in CONFIGS.glob(pattern) if path.name != "benchmarks.yaml")  # of `coprs evaluate`
    assert paths, f"no configs match {pattern}"
    return [pytest.param(path, id=str(path.relative_to(CONFIGS))) for path in paths]


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The whole config that some words amount to."""
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--print_config"])
    content: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return content


def arrives(given: Any, arrived: Any) -> bool:
    """Whether every value given is in the whole config; classes may be named in short."""
    if not isinstance(given, dict):
        return bool(given == arrived)
    return all(
        str(arrived[name]).endswith(value) if name == "class_path" else arrives(value, arrived[name])
        for name, value in given.items()
    )


def from_hub(content: dict[str, Any]) -> bool:
    return not content["model"]["policy"]["init_args"]["random_weights"]


def on_tiny_data(data: Path) -> list[str]:
    splits = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(data / split))]
    return [*splits, "--data.batch_size", "2", "--data.eval_batch_size", "2", "--data.num_workers", "0"]


def test_every_config_has_its_place() -> None:
    places = {str(path.parent.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.y*ml")}
    data = {"data", "data/evaluation", "data/unit"}
    places -= {place for place in places if place.startswith("ablation/")}  # a folder an axis
    assert places == {".", "model", "model/loss", "model/backbone", *data, "slurm", "trainer"}
    assert all(path.suffix in (".yaml", ".sbatch") for path in CONFIGS.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", found("*.yaml"))
def test_complete_configs(path: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = printed(["fit", "--config", str(path)], capsys)
    if from_hub(content):
        return
    start = ["--model.init_from", "null"]  # the run it names is another's
    cli = run(["fit", "--config", str(path), *start, *on_tiny_data(tiny_data), *ON_CPU, *FAST])
    assert cli.trainer.global_step == 1


@pytest.mark.parametrize("path", found("ablation/training/*.yaml"))
def test_ablations_of_joint_training(
    path: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["fit", "--config", str(CONFIGS / "quickstart_grpo.yaml")]
    full, halved = printed(base, capsys)["model"], printed([*base, "--config", str(path)], capsys)["model"]
    assert arrives(yaml.safe_load(path.read_text())["model"], halved)
    parts = ("policy_weight", "segmentation_weight")
    switched_off = [name for name in parts if halved["objective"]["init_args"][name] == 0]
    assert switched_off == [{"segmentation_only": parts[0], "reinforcement_only": parts[1]}[path.stem]]
    assert all(full["objective"]["init_args"][name] > 0 for name in parts)
    words = [*base, "--config", str(path), "--model.init_from", "null", *on_tiny_data(tiny_data), *ON_CPU, *FAST]
    assert run(words).trainer.global_step == 1


def test_at_least_the_quickstart_runs_without_a_hub(capsys: pytest.CaptureFixture[str]) -> None:
    assert not from_hub(printed(["fit", "--config", str(CONFIGS / "quickstart.yaml")], capsys))
    assert from_hub(printed(["fit", "--config", str(CONFIGS / "coprs.yaml")], capsys))


@pytest.mark.parametrize("path", found("model/*.yaml"))
def test_models(path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = yaml.safe_load(path.read_text())
    content = printed(["fit", "--config", str(tiny), "--model", str(path)], capsys)
    # every value of the file arrives: nothing is overridden or ignored
    assert arrives(given, content["model"])
    if given["policy"]["init_args"].get("random_weights"):
        words = ["fit", "--config", str(tiny), "--model", str(path), "--model.init_from", "null", *FAST]
        assert run(words).trainer.global_step == 1


@pytest.mark.parametrize("path", found("trainer/*.yaml"))
def test_trainers(path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = yaml.safe_load(path.read_text())
    content = printed(["fit", "--config", str(tiny), "--trainer", str(path)], capsys)
    assert arrives({name: value for name, value in given.items() if name != "plugins"}, content["trainer"])
    cli = run(["fit", "--config", str(tiny), "--trainer", str(path), *ON_CPU, *FAST])
    assert cli.trainer.global_step == 1


@pytest.mark.parametrize("path", found("data/*.yaml"))
def test_data(path: Path, tiny: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = yaml.safe_load(path.read_text())["init_args"]
    arrived = printed(["fit", "--config", str(tiny), "--data", str(path)], capsys)["data"]["init_args"]
    assert given.items() <= arrived.items()
    cli = run(["fit", "--config", str(tiny), "--data", str(path), *on_tiny_data(tiny_data), *FAST])
    assert cli.datamodule.expression == given.get("expression", "random")


@pytest.mark.parametrize("path", found("data/evaluation/*.yaml"))
def test_evaluation_splits(path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both units of every split, nothing left out; the folder is the one that the converter writes."""
    words = ["fit", "--config", str(tiny), "--data", str(path)]
    first, every = (
        printed([*words, *more], capsys)["data"]["init_args"]
        for more in ([], ["--data.init_args.eval_unit", "expression"])
    )
    dataset, _, split = path.stem.partition("_")
    suffix = {"reasonseg": "", "refcocog": "_umd"}.get(dataset, "_unc")
    assert first["test"] == every["test"] == f"data/{dataset}{suffix}/{split}"
    assert (first["eval_unit"], every["eval_unit"]) == ("target", "expression")
    assert first["max_bad_fraction"] == every["max_bad_fraction"] == 0
    assert first["limit_examples"] is every["limit_examples"] is None


@pytest.mark.parametrize("path", found("data/unit/*.yaml"))
def test_units(path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = run(["fit", "--config", str(tiny), "--config", str(path), *FAST])
    assert cli.datamodule.unit == cli.datamodule.eval_unit == path.stem


@pytest.mark.parametrize("path", found("model/loss/*.yaml"))
def test_loss_overlays(path: Path, tiny: Path) -> None:
    given = yaml.safe_load(path.read_text())["model"]["objective"]["init_args"]
    objective = run(["fit", "--config", str(tiny), "--config", str(path), *FAST]).model.objective
    assert objective.segmentation_weight == given["segmentation_weight"]
    assert objective.schedule.first == SegmentationWeights(**given["segmentation"])
    later = given["later_segmentation"]
    assert objective.schedule.later == (None if later is None else SegmentationWeights(**later))
    assert objective.schedule.switch_step == given["switch_step"]


def small_sam(folder: Path, config: Path) -> Path:
    """The tiny experiment with a small SAM where the paper's has ViT-H; as another file, and the SAM in its folder."""
    save_sam(folder / "huge")
    content = yaml.safe_load(config.read_text())
    pretrained = {"pretrained": str(folder / "huge"), "image_size": IMAGE_SIZE, "frozen": True}
    content["model"]["backbone"] = {"class_path": "SamBackbone", "init_args": pretrained}
    content["model"]["decoder"] = {"class_path": "SamMaskDecoder", "init_args": {"pretrained": str(folder / "huge")}}
    return write_config(folder / "small_sam.yaml", content)


@pytest.mark.parametrize("path", found("model/backbone/sam_vit_*.yaml"))
def test_smaller_sams(path: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = yaml.safe_load(path.read_text())["model"]
    names = [given[slot]["init_args"]["pretrained"] for slot in ("backbone", "decoder")]
    assert names[0] == names[1] == f"facebook/sam-vit-{ {'b': 'base', 'l': 'large'}[path.stem[-1]] }"
    base = small_sam(tmp_path, tiny)
    monkeypatch.chdir(tmp_path)
    saved = save_sam(tmp_path / names[0])  # what stands there is read before the hub is asked
    model = run(["fit", "--config", str(base), "--config", str(path), *FAST]).model.model
    assert model.backbone.frozen
    loaded, expected = list(model.backbone.parameters()), list(saved.vision_encoder.parameters())
    assert len(loaded) == len(expected)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(loaded, expected, strict=True))


def test_features_of_the_batch_stand_for_the_backbone(tiny: Path, tmp_path: Path) -> None:
    maps = np.random.default_rng(0).standard_normal((256, 64, 64)).astype(np.float16)
    with ShardWriter(tmp_path / "train", name="t", source="t", licence="CC0-1.0", features={"backbone": "toy"}) as out:
        for number in range(2):
            out.write(*make_sample(number), "png", features=maps)
    base, overlay = small_sam(tmp_path, tiny), CONFIGS / "model" / "backbone" / "features.yaml"
    here = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(tmp_path / "train"))]
    batch = ["--data.batch_size", "2", "--data.num_workers", "0"]
    cli = run(["fit", "--config", str(base), "--config", str(overlay), *here, *batch, *FAST])
    assert cli.trainer.global_step == 1
    assert list(cli.model.model.backbone.parameters()) == []


def test_backbone_overlays_are_all_tested() -> None:
    stems = {path.stem for path in CONFIGS.glob("model/backbone/*.yaml")}
    assert stems == {"features", "sam_vit_b", "sam_vit_l"}


def test_the_papers_coefficients_are_those_of_the_papers_config(capsys: pytest.CaptureFixture[str]) -> None:
    base = ["fit", "--config", str(CONFIGS / "coprs.yaml")]
    overlay = ["--config", str(CONFIGS / "model" / "loss" / "paper.yaml")]
    assert printed([*base, *overlay], capsys)["model"]["objective"] == printed(base, capsys)["model"]["objective"]


def test_configs_in_comments_and_the_readme_exist() -> None:
    texts = [path.read_text() for path in [*CONFIGS.rglob("*.yaml"), REPO / "README.md", REPO / "CONTRIBUTING.md"]]
    named = {
        name for text in texts for name in re.findall(r"--(?:config|trainer|model|data)[ =]((?!my_)\S+\.yaml)", text)
    }
    assert named
    missing = {name for name in named if not (CONFIGS / name).is_file() and not (REPO / name).is_file()}
    assert missing == set()
