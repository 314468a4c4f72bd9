"""`coprs fit` on two processes of one machine, and what other commands make of it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from coprs_lightning.checkpoints import load_model
from coprs_lightning.checkpoints.sharded import read_sharded
from coprs_lightning.cli import main
from tests.conftest import REPO
from tests.tiny import tiny_config, write_config


def trainer_of(name: str) -> dict[str, Any]:
    """A shipped config of the trainer."""
    content: dict[str, Any] = yaml.safe_load((REPO / "configs" / "trainer" / f"{name}.yaml").read_text())
    return content


def on_two(*words: str) -> str:
    """Run a command on two processes; what it wrote to stderr."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "coprs_lightning", *words],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stderr


def validated(run: Path) -> list[dict[str, str]]:
    """Rows of a run's metrics that come from validation."""
    with (run / "logs" / "version_0" / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["val/n"]]


@pytest.fixture(scope="module", params=["cpu_ddp", "cpu_fsdp"])
def trained(request: pytest.FixtureRequest, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two steps, validated after each.

    Both validation examples make one batch: the second process has none. The backbone's norms have buffers.
    """
    folder = tmp_path_factory.mktemp(request.param)
    content = tiny_config(tiny_data, folder / "run")
    content["trainer"] |= {**trainer_of(request.param), "val_check_interval": 1}
    content["data"]["init_args"]["batch_size"] = 2
    on_two("fit", "--config", str(write_config(folder / "config.yaml", content)))
    return folder / "run"


def test_a_process_without_a_validation_batch_keeps_nobody_waiting(trained: Path) -> None:
    assert [(float(row["val/n"]), row["step"]) for row in validated(trained)] == [(2.0, "0"), (2.0, "1")]


def test_other_commands_read_the_checkpoint(trained: Path, tmp_path: Path) -> None:
    last = trained / "checkpoints" / "last.ckpt"
    model = load_model(last, "cpu").state_dict()
    saved = read_sharded(last)["state_dict"] if last.is_dir() else torch.load(last)["state_dict"]
    assert all(torch.equal(value, saved[f"model.{name}"]) for name, value in model.items())
    main(["export", "--checkpoint", str(last), "--output", str(tmp_path / "model")])
    exported = load_model(tmp_path / "model", "cpu").state_dict()
    assert all(torch.equal(value, exported[name]) for name, value in model.items())
    options = ["--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(tmp_path / "again")]
    main(["validate", "--ckpt_path", str(trained), *options, "--trainer.logger", "false"])
    image = tmp_path / "image.png"
    _grey(image)
    words = ["--image", str(image), "--question", "the red rectangle", "--output", str(tmp_path / "segmented")]
    main(["segment", "--checkpoint", str(trained), *words])
    assert any((tmp_path / "segmented").iterdir())


def _grey(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 30), (90, 90, 90)).save(path)


@pytest.mark.slow
def test_joint_training_samples_validates_and_goes_on(tiny_data: Path, tmp_path: Path) -> None:
    """A divided policy: rollouts, the reference policy, validation on two processes, then on one, then further."""
    content = tiny_config(tiny_data, tmp_path / "run")
    content["trainer"] |= {**trainer_of("cpu_fsdp"), "val_check_interval": 1}
    content["data"]["init_args"]["batch_size"] = 2
    rollout = {"class_path": "TransformersRollout", "init_args": {"max_new_tokens": 6}}
    options = {"num_generations": 2, "rollout": rollout, "micro_batch_size": 2}
    content["model"]["objective"] = {"class_path": "GRPOObjective", "init_args": options}
    config = str(write_config(tmp_path / "config.yaml", content))
    on_two("fit", "--config", config)
    run = str(tmp_path / "run")
    on_two("fit", "--config", config, "--ckpt_path", run, "--trainer.max_steps", "4")
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoints*")) == ["checkpoints"]
    assert read_sharded(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 4
    on_two("validate", "--config", config, "--ckpt_path", run)
    on_two("test", "--config", config, "--ckpt_path", run)
