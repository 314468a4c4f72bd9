"""Checkpoints on the command line: run folders, defaults, and who wins over whom."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from coprs_lightning.cli_checkpoint import (
    as_defaults,
    differences,
    drop_swapped,
    find_checkpoint,
    listed,
    read_header,
    specs,
)
from coprs_lightning.cli_lightning import LINKS, run
from coprs_lightning.commands import CommandError
from coprs_lightning.heatmap_heads import CosineHead
from coprs_lightning.module import DATA_SPEC_KEY, SPEC_KEY
from tests.tiny import refused, write_config


def evaluation(trained_run: Path, tmp_path: Path, *flags: str) -> list[str]:
    root = ["--trainer.default_root_dir", str(tmp_path / "evaluation"), "--trainer.accelerator", "cpu"]
    return ["validate", "--ckpt_path", str(trained_run), *root, *flags]


def test_a_checkpoint_alone_is_enough_to_validate(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = run(evaluation(trained_run, tmp_path))
    assert float(cli.trainer.callback_metrics["val/n"]) == 2
    assert cli.model.model.heatmap_head.spec["init_args"]["dim"] == 16
    assert cli.datamodule.batch_size == 4
    assert "using the best checkpoint of" in capsys.readouterr().err


def test_test_and_predict_take_a_run_too(trained_run: Path, tmp_path: Path) -> None:
    words = evaluation(trained_run, tmp_path)[1:]
    assert "test/giou" in run(["test", *words]).trainer.callback_metrics
    assert run(["predict", *words]).datamodule is not None


def test_flags_and_configs_win_over_the_checkpoint(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = write_config(tmp_path / "o.yaml", {"model": {"generation": {"max_new_tokens": 2}}})
    flags = ["--data.batch_size", "1", "--model.validation", "teacher_forced"]
    command, *rest = evaluation(trained_run, tmp_path)
    cli = run([command, "--config", str(overlay), *rest, *flags])
    assert cli.model.generation.max_new_tokens == 2
    assert cli.model.validation == "teacher_forced"
    assert cli.datamodule.batch_size == 1
    shown = capsys.readouterr().err
    assert "these options differ from the checkpoint's:" in shown
    assert "model.generation.max_new_tokens: 2 now, 4 in the checkpoint" in shown


def test_an_unchanged_model_is_not_remarked_upon(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(evaluation(trained_run, tmp_path))
    assert "differ" not in capsys.readouterr().err


def test_a_changed_size_fails_and_is_named(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(evaluation(trained_run, tmp_path, "--model.heatmap_head.dim", "8"), capsys, status=1)
    assert "the checkpoint's weights do not fit this model." in message
    assert "model.heatmap_head.init_args.dim: 8 now, 16 in the checkpoint" in message
    assert "size mismatch" in message


def test_a_swapped_part_takes_nothing_from_the_checkpoints(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(evaluation(trained_run, tmp_path, "--model.heatmap_head", "CosineHead"), capsys, status=1)
    dim = CosineHead(query_dim=1, in_channels=1).spec["init_args"]["dim"]
    assert f"model.heatmap_head.init_args.dim: {dim} now, 16 in the checkpoint" in message
    assert "model.heatmap_head.class_path: 'coprs_lightning.heatmap_heads.cosine.CosineHead' now" in message


def test_lightning_does_not_read_values_from_checkpoints(trained_run: Path, tmp_path: Path) -> None:
    # its own way puts `hyper_parameters` above the command line
    copy = tmp_path / "run"
    shutil.copytree(trained_run, copy)
    path = copy / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"] = {"validation": "generate"}
    torch.save(content, path)
    words = evaluation(path, tmp_path, "--model.validation", "teacher_forced")
    assert run(words).model.validation == "teacher_forced"


def test_a_run_is_resumed_from_its_last_checkpoint(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained_run, copy)
    cli = run(["fit", "--ckpt_path", str(copy), "--trainer.max_steps", "3", "--trainer.default_root_dir", str(copy)])
    assert cli.trainer.global_step == 3
    assert f"using the last checkpoint of {copy}: {copy}/checkpoints/last.ckpt" in capsys.readouterr().err


def test_a_run_folder_in_a_config_is_found_too(trained_run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((trained_run / "config.yaml").read_text())
    config["ckpt_path"] = str(trained_run)
    config["trainer"]["default_root_dir"] = str(tmp_path)
    cli = run(["validate", "--config", str(write_config(tmp_path / "c.yaml", config))])
    assert "val/giou" in cli.trainer.callback_metrics


def save(path: Path, best: str = "", age: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"ModelCheckpoint{…}": {"best_model_path": best}}
    torch.save({SPEC_KEY: {"class_path": "x", "init_args": {}}, "callbacks": state}, path)
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


def test_the_best_checkpoint_is_found_by_name_in_a_moved_run(tmp_path: Path) -> None:
    best = save(tmp_path / "checkpoints" / "step=1.ckpt", age=9)
    save(tmp_path / "checkpoints" / "last.ckpt", best="/elsewhere/checkpoints/step=1.ckpt")
    assert find_checkpoint(tmp_path).path == best
    assert find_checkpoint(tmp_path).kind == "best"
    assert find_checkpoint(tmp_path / "checkpoints").kind == "best"
    assert find_checkpoint(tmp_path, prefer="last").path.name == "last.ckpt"


def test_without_a_best_one_it_is_the_last_else_the_newest(tmp_path: Path) -> None:
    save(tmp_path / "checkpoints" / "step=1.ckpt", age=9)
    newest = save(tmp_path / "checkpoints" / "step=2.ckpt", age=5)
    assert (find_checkpoint(tmp_path).path, find_checkpoint(tmp_path).kind) == (newest, "newest")
    last = save(tmp_path / "checkpoints" / "last-v1.ckpt", best="gone.ckpt", age=7)
    assert (find_checkpoint(tmp_path).path, find_checkpoint(tmp_path).kind) == (last, "last")


def test_of_several_attempts_it_is_the_one_last_written(tmp_path: Path) -> None:
    save(tmp_path / "checkpoints" / "last.ckpt", age=9)
    second = save(tmp_path / "checkpoints-2" / "last.ckpt", age=1)
    assert find_checkpoint(tmp_path).path == second


def test_a_file_is_itself(tmp_path: Path) -> None:
    file = save(tmp_path / "x.ckpt")
    assert (find_checkpoint(file).path, find_checkpoint(file).kind) == (file, "")


def test_missing_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CommandError, match=r"there is no checkpoint .*nothing. Give a .ckpt file, or the folder of a run"
    ):
        find_checkpoint(tmp_path / "nothing")
    with pytest.raises(CommandError, match=r"holds no checkpoint \(looked for checkpoints/\*.ckpt\)"):
        find_checkpoint(tmp_path)


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_text("no checkpoint")
    with pytest.raises(CommandError, match="is no checkpoint, or a truncated one"):
        read_header(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(CommandError, match="is no coprs checkpoint: it has no 'coprs_spec'"):
        read_header(path)
    torch.save({SPEC_KEY: print}, path)
    with pytest.raises(CommandError, match="cannot be read as a checkpoint"):
        read_header(path)


def test_defaults_leave_derived_sizes_out() -> None:
    head: dict[str, Any] = {"class_path": "H", "init_args": {"query_dim": 3, "in_channels": 4, "dim": 5}}
    data = {"class_path": "D", "init_args": {"image_size": 6, "batch_size": 7}}
    header = {SPEC_KEY: {"class_path": "M", "init_args": {"heatmap_head": head}}, DATA_SPEC_KEY: data}
    assert as_defaults(specs(header), LINKS) == {
        "model": {"heatmap_head": {"class_path": "H", "init_args": {"dim": 5}}},
        "data": {"class_path": "D", "init_args": {"batch_size": 7}},
    }
    del header[DATA_SPEC_KEY]
    assert "data" not in as_defaults(specs(header), LINKS)


def test_a_swapped_default_is_forgotten() -> None:
    defaults = {
        "model": {"a": {"class_path": "x.A", "init_args": {"n": 1}}, "b": {"class_path": "x.B", "init_args": {}}}
    }
    kept = drop_swapped(defaults, {"model.a": "x.Other", "model.b": "x.B"})
    assert kept["model"] == {"a": {"class_path": "x.Other"}, "b": {"class_path": "x.B", "init_args": {}}}


def test_differences_are_listed_by_path() -> None:
    lines = differences({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 1, "c": 3}, "d": [1], "e": 4})
    assert lines == ["model.a.c: 3 now, 2 in the checkpoint", "model.e: 4 now, None in the checkpoint"]
    assert listed(["x", "y"]) == "\n  x\n  y"
    assert listed([str(i) for i in range(12)]).endswith("\n  7\n  … and 4 more")
