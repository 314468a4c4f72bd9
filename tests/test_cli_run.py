"""The folder of a run: no two runs get mixed, none dies of the one before it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from coprs_lightning.cli import main
from coprs_lightning.cli_lightning import run
from coprs_lightning.cli_run import default_root


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_keeps_config_and_checkpoints_in_its_folder(tiny: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(tiny)])
    assert names(tmp_path / "run") == {"config.yaml", "checkpoints", "logs", "results.json"}
    assert "last.ckpt" in names(tmp_path / "run" / "checkpoints")
    assert any(name.startswith("step=2-giou=") for name in names(tmp_path / "run" / "checkpoints"))


def test_a_second_run_in_the_same_folder_is_numbered(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", "--config", str(tiny)])
    first = (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes()
    main(["fit", "--config", str(tiny), "--model.optimizer.learning_rate", "0.5"])
    folder = tmp_path / "run"
    assert f"{folder} already holds a run; this one writes config-2.yaml and checkpoints-2/" in capsys.readouterr().err
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == first
    assert names(folder / "checkpoints-2") >= {"last.ckpt"}
    assert yaml.safe_load((folder / "config-2.yaml").read_text())["model"]["optimizer"]["learning_rate"] == 0.5
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["optimizer"]["learning_rate"] == 0.001
    assert {"version_0", "version_1"} == names(folder / "logs")


def test_a_resumed_run_goes_on_in_its_folder(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    main(["fit", "--config", str(tiny)])
    main(["fit", "--config", str(tiny), "--ckpt_path", str(folder)])
    assert names(folder) == {"config.yaml", "checkpoints", "logs", "results.json"}
    main(["fit", "--config", str(tiny), "--ckpt_path", str(folder), "--trainer.max_steps", "3"])
    assert names(folder) == {"config.yaml", "config-2.yaml", "checkpoints", "logs", "results.json"}
    assert "the config differs from the one there; it is written to config-2.yaml" in capsys.readouterr().err


def test_resuming_a_numbered_run_stays_with_its_number(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for _ in range(2):
        main(["fit", "--config", str(tiny)])
    second = folder / "checkpoints-2" / "last.ckpt"
    cli = run(["fit", "--config", str(tiny), "--ckpt_path", str(second), "--trainer.max_steps", "3"])
    assert cli.trainer.checkpoint_callback.dirpath == str(folder / "checkpoints-2")
    assert "checkpoints-3" not in names(folder)


def test_starting_from_another_runs_checkpoint_is_a_new_run(tiny: Path, tmp_path: Path, trained_run: Path) -> None:
    words = ["fit", "--config", str(tiny), "--ckpt_path", str(trained_run), "--trainer.max_steps", "3"]
    cli = run(words)
    assert cli.trainer.checkpoint_callback.dirpath == str(tmp_path / "run" / "checkpoints")


def test_evaluations_keep_configs_of_their_own(trained_run: Path, tmp_path: Path) -> None:
    words = [
        "--ckpt_path",
        str(trained_run),
        "--trainer.default_root_dir",
        str(tmp_path),
        "--trainer.accelerator",
        "cpu",
    ]
    main(["validate", *words])
    main(["test", *words])
    main(["validate", *words])
    main(["validate", *words, "--data.batch_size", "1"])
    expected = {"config-validate.yaml", "config-test.yaml", "config-validate-2.yaml"}
    assert {name for name in names(tmp_path) if name.endswith(".yaml")} == expected


def test_a_fast_dev_run_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(tiny), "--trainer.fast_dev_run", "true"])
    assert list((tmp_path / "run").rglob("*")) == []


def test_without_validation_the_newest_checkpoint_is_kept(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", "--config", str(tiny), "--data.val", "null", "--trainer.max_epochs", "1"])
    assert "no validation, so no val/giou: the newest checkpoint is kept instead of the best" in capsys.readouterr().err
    assert names(tmp_path / "run" / "checkpoints") == {"last.ckpt", "step=2.ckpt"}


def test_an_own_folder_of_checkpoints_is_respected(tiny: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(tiny), "--callbacks.checkpoint.dirpath", str(tmp_path / "mine")])
    assert "last.ckpt" in names(tmp_path / "mine")
    assert "checkpoints" not in names(tmp_path / "run")


def test_runs_without_a_folder_go_below_runs(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load(tiny.read_text())
    del content["trainer"]["default_root_dir"]
    tiny.write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    main(["fit", "--config", str(tiny)])
    assert (tmp_path / "runs" / "fit" / "checkpoints" / "last.ckpt").is_file()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert default_root("fit") == "runs/slurm-17"


def test_a_requeued_job_goes_on_in_its_folder(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    cli = run(["fit", "--config", str(tiny)])
    cli.trainer.save_checkpoint(folder / "hpc_ckpt_1.ckpt")
    for name, value in {
        "JOB_ID": "17",
        "NTASKS": "1",
        "NTASKS_PER_NODE": "1",
        "JOB_NAME": "train",
        "PROCID": "0",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_LOCALID", "0")
    monkeypatch.setenv("SLURM_NODEID", "0")
    resumed = run(["fit", "--config", str(tiny), "--trainer.max_steps", "3"])
    assert resumed.trainer.global_step == 3
    assert resumed.trainer.checkpoint_callback.dirpath == str(folder / "checkpoints")
    assert "checkpoints-2" not in names(folder)
