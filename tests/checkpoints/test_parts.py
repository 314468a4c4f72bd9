"""Checkpoints of pretrained parts are rebuilt without the sources they were trained from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from coprs_lightning.checkpoints import load_model
from coprs_lightning.checkpoints.parts import written_assets
from coprs_lightning.checkpoints.run_folder import PORTABLE_KEY, SPEC_KEY
from coprs_lightning.cli import main
from coprs_lightning.model import CoprsModel
from coprs_lightning.module import CoprsModule, read_checkpoint
from coprs_lightning.policies import HFPolicy
from tests.tiny import POLICY, tiny_config, write_config


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose policy was loaded from a folder that is gone."""
    folder = tmp_path_factory.mktemp("pretrained")
    arguments: dict[str, Any] = {**POLICY["init_args"]}
    start = HFPolicy(**{key: value for key, value in arguments.items() if key != "prompt"})
    start.lm.save_pretrained(folder / "source")
    start.processor.save_pretrained(folder / "source")
    config = tiny_config(tiny_data, folder / "run")
    policy = config["model"]["policy"]["init_args"]
    policy.update(model=str(folder / "source"), random_weights=False)
    policy.pop("config_overrides")
    main(["fit", "--config", str(write_config(folder / "c.yaml", config))])
    shutil.rmtree(folder / "source")
    return folder / "run"


def test_a_module_is_rebuilt_without_its_source(run: Path) -> None:
    file = run / "checkpoints" / "last.ckpt"
    content = read_checkpoint(file)
    module = CoprsModule.from_checkpoint(file)
    assert all(torch.equal(value, content["state_dict"][name]) for name, value in module.state_dict().items())
    assert module.spec == content[SPEC_KEY]
    assert module.model.policy.spec["init_args"]["model"].endswith("source")
    assert content[PORTABLE_KEY]["assets"]["policy"]["tokenizer.json"]


def test_a_model_is_loaded_and_exported_without_its_source(run: Path, tmp_path: Path) -> None:
    model = load_model(run, "cpu")
    main(["export", "--checkpoint", str(run), "--output", str(tmp_path / "e")])
    again = CoprsModel.from_pretrained(tmp_path / "e")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    card = (tmp_path / "e" / "README.md").read_text()
    assert "| policy | `HFPolicy` |" in card
    assert str(run.parent) not in card


def test_training_starts_from_an_exported_folder(trained_run: Path, tiny: Path, tmp_path: Path) -> None:
    from coprs_lightning.cli_lightning import run as run_cli

    main(["export", "--checkpoint", str(trained_run), "--output", str(tmp_path / "e")])
    flags = ["--model.init_from", str(tmp_path / "e"), "--trainer.max_steps", "0"]
    started = run_cli(["fit", "--config", str(tiny), *flags]).model.model.state_dict()
    expected = load_model(trained_run, "cpu").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in started.items())


def test_assets_stay_in_their_folder() -> None:
    with written_assets({"policy": {"a/b.txt": "text"}}) as folder:
        assert (folder / "policy" / "a" / "b.txt").read_text() == "text"
    assert not folder.exists()
    outside = {"policy": {"../../x": ""}}
    with pytest.raises(ValueError, match=r"asset '../../x' of policy that lies outside"), written_assets(outside):
        pass
