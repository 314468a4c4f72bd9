"""The LightningModule: steps, log keys, optimizer groups, resuming, checkpoints as plain data."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from coprs_lightning.cli import main
from coprs_lightning.cli_lightning import CoprsCLI, run
from coprs_lightning.module import DATA_SPEC_KEY, SPEC_KEY, CoprsModule, read_checkpoint
from tests.tiny import refused

FAST = ["--trainer.fast_dev_run", "true"]


def fitted(tiny: Path, *flags: str) -> CoprsCLI:
    return run(["fit", "--config", str(tiny), *flags])


def test_logged_keys(tiny: Path, tmp_path: Path) -> None:
    fitted(tiny)
    with (tmp_path / "run" / "logs" / "version_0" / "metrics.csv").open() as file:
        keys = set(next(csv.reader(file)))
    losses = {f"train/loss{name}" for name in ("", "/language", "/segmentation", "/dice", "/focal", "/heatmap_bce")}
    assert losses <= keys
    assert {"lr/policy", "lr/backbone", "lr/heatmap_head", "lr/decoder"} <= keys
    assert {"val/giou", "val/ciou", "val/heatmap_giou", "val/precision@0.5", "val/format_rate"} <= keys


def test_every_part_trains_at_its_own_rate(tiny: Path) -> None:
    flags = ["--model.heatmap_head.lr_multiplier", "25", "--model.backbone.frozen", "true"]
    cli = fitted(tiny, *flags, *FAST)
    rates = {group["name"]: group["initial_lr"] for group in cli.trainer.optimizers[0].param_groups}
    assert rates["heatmap_head"] == pytest.approx(25 * rates["policy"])
    assert "backbone" not in rates
    options = cli.trainer.optimizers[0].param_groups[0]
    assert (options["weight_decay"], tuple(options["betas"])) == (0.01, (0.9, 0.999))


def test_training_changes_every_trained_part_and_no_frozen_one(tiny: Path, tmp_path: Path) -> None:
    flags = ["--model.backbone.frozen", "true", "--model.optimizer.learning_rate", "0.01"]
    start = fitted(tiny, *flags, "--trainer.max_steps", "0").model.state_dict()
    end = fitted(tiny, *flags, "--trainer.default_root_dir", str(tmp_path / "b")).model.state_dict()
    moved = {name.split(".")[1] for name in start if not torch.equal(start[name], end[name])}
    # the aggregator has no parameters; running statistics of the frozen backbone must stand still too
    assert moved == {"policy", "heatmap_head", "decoder"}


def test_everything_frozen_is_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frozen = [
        w for part in ("policy", "backbone", "heatmap_head", "decoder") for w in (f"--model.{part}.frozen", "true")
    ]
    message = refused(["fit", "--config", str(tiny), *frozen, *FAST], capsys, status=1)
    assert "every part is frozen: nothing to train. Set frozen: false on at least one slot." in message


def test_a_run_without_end_is_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endless = ["--trainer.max_steps", "-1", "--trainer.max_epochs", "-1"]
    message = refused(["fit", "--config", str(tiny), *endless], capsys, status=1)
    assert "the one-cycle schedule needs an end: set trainer.max_steps or trainer.max_epochs." in message


def test_validation_can_read_the_written_thoughts(tiny: Path) -> None:
    cli = fitted(tiny, "--model.validation", "teacher_forced")
    assert float(cli.trainer.callback_metrics["val/format_rate"]) == 1.0
    assert float(cli.trainer.callback_metrics["val/token_rate"]) == 1.0
    generated = fitted(tiny)
    assert float(generated.trainer.callback_metrics["val/format_rate"]) == 0.0


def test_a_resumed_run_continues_exactly(tiny: Path, tmp_path: Path) -> None:
    whole = fitted(tiny, "--trainer.max_steps", "4", "--trainer.default_root_dir", str(tmp_path / "whole"))
    # stopped after two of four steps: the schedule must be that of the whole run
    epochs = ["--trainer.max_steps", "-1", "--trainer.max_epochs", "2"]
    fitted(tiny, *epochs, "--trainer.limit_train_batches", "2", "--trainer.default_root_dir", str(tmp_path / "whole2"))
    half = tmp_path / "half"
    cli = run(["fit", "--config", str(tiny), "--trainer.max_steps", "2", "--trainer.default_root_dir", str(half)])
    assert cli.trainer.global_step == 2
    more = ["--trainer.max_steps", "4", "--trainer.default_root_dir", str(half), "--ckpt_path", str(half)]
    resumed = run(["fit", "--config", str(tiny), *more])
    assert resumed.trainer.global_step == 4
    rates = [group["lr"] for group in resumed.trainer.optimizers[0].param_groups]
    assert rates == [group["lr"] for group in whole.trainer.optimizers[0].param_groups]


def test_options_changed_on_resuming_win_over_the_checkpoints(tiny: Path, tmp_path: Path) -> None:
    fitted(tiny)
    changed = ["--model.optimizer.learning_rate", "0.5", "--model.optimizer.weight_decay", "0.25"]
    cli = fitted(tiny, "--trainer.max_steps", "6", "--ckpt_path", str(tmp_path / "run"), *changed)
    group = cli.trainer.optimizers[0].param_groups[0]
    assert (group["initial_lr"], group["weight_decay"]) == (0.5, 0.25)
    with (tmp_path / "run" / "logs" / "version_1" / "metrics.csv").open() as file:
        first = next(csv.DictReader(file))
    # step 2 of 6 of the new schedule at the new rate
    expected = 1 / 6.67 + (1 - 1 / 6.67) * (1 + torch.cos(torch.tensor(torch.pi * 2 / 5))) / 2
    assert float(first["lr/policy"]) == pytest.approx(0.5 * float(expected), rel=1e-4)


def test_checkpoints_are_plain_data_in_every_generation(tiny: Path, tmp_path: Path) -> None:
    fitted(tiny)
    folder = tmp_path / "run"
    first = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert first[SPEC_KEY]["class_path"] == "coprs_lightning.module.CoprsModule"
    assert first[DATA_SPEC_KEY]["init_args"]["batch_size"] == 4
    fitted(tiny, "--trainer.max_steps", "4", "--ckpt_path", str(folder))
    second = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert second["global_step"] == 4
    assert second[SPEC_KEY] == first[SPEC_KEY]


def test_a_module_is_rebuilt_from_its_checkpoint_alone(trained_run: Path) -> None:
    path = trained_run / "checkpoints" / "last.ckpt"
    module = CoprsModule.from_checkpoint(path)
    assert not module.training
    content = read_checkpoint(path)
    assert module.spec == content[SPEC_KEY]
    assert all(torch.equal(value, content["state_dict"][name]) for name, value in module.state_dict().items())


def test_a_rebuilt_module_records_the_same_spec(trained_run: Path, tmp_path: Path) -> None:
    path = trained_run / "checkpoints" / "last.ckpt"
    content = read_checkpoint(path)
    module = CoprsModule.from_checkpoint(path)
    torch.save({**content, SPEC_KEY: module.spec, "state_dict": module.state_dict()}, tmp_path / "again.ckpt")
    assert CoprsModule.from_checkpoint(tmp_path / "again.ckpt").spec == content[SPEC_KEY]


def test_weights_can_start_from_another_run(tiny: Path, trained_run: Path) -> None:
    path = trained_run / "checkpoints" / "last.ckpt"
    cli = fitted(tiny, "--model.init_from", str(path), "--trainer.max_steps", "0")
    assert cli.trainer.global_step == 0
    weights = read_checkpoint(path)["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in cli.model.state_dict().items())
    assert cli.model.spec["init_args"]["init_from"] is None


def broken(kind: str, folder: Path, checkpoint: Path) -> Path:
    path = folder / "broken.ckpt"
    if kind == "truncated":
        path.write_bytes(checkpoint.read_bytes()[:2000])
    elif kind == "foreign":
        torch.save({"state_dict": {}}, path)
    elif kind == "code":
        torch.save({SPEC_KEY: print}, path)
    elif kind == "other class":
        spec = {
            "class_path": "coprs_lightning.heatmap_heads.CosineHead",
            "init_args": {"query_dim": 1, "in_channels": 1},
        }
        torch.save({SPEC_KEY: spec, "state_dict": {}}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("missing", FileNotFoundError, r"no checkpoint at .*broken.ckpt. Give a .ckpt file written by `coprs fit`."),
        ("truncated", ValueError, "cannot be read as a checkpoint"),
        ("code", ValueError, "cannot be read as a checkpoint"),
        ("foreign", ValueError, "is no coprs checkpoint: it has no 'coprs_spec'"),
        ("other class", ValueError, "holds a CosineHead, not a CoprsModule"),
    ],
)
def test_what_is_no_checkpoint_is_refused(
    kind: str, error: type[Exception], message: str, tmp_path: Path, trained_run: Path
) -> None:
    path = broken(kind, tmp_path, trained_run / "checkpoints" / "last.ckpt")
    with pytest.raises(error, match=message):
        CoprsModule.from_checkpoint(path)


def test_weights_must_fit_strictly(trained_run: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = read_checkpoint(trained_run / "checkpoints" / "last.ckpt")
    content["state_dict"].popitem()
    torch.save(content, tmp_path / "less.ckpt")
    with pytest.raises(RuntimeError, match="Missing key"):
        CoprsModule.from_checkpoint(tmp_path / "less.ckpt")


def test_prediction_segments_the_test_split(trained_run: Path, tmp_path: Path) -> None:
    words = ["predict", "--ckpt_path", str(trained_run), "--trainer.default_root_dir", str(tmp_path)]
    assert main([*words, "--trainer.accelerator", "cpu"]) == 0


def test_a_start_that_is_not_there_is_told(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(["fit", "--config", str(tiny), "--model.init_from", "runs/none.ckpt"], capsys, status=1)
    assert "model.init_from: there is no checkpoint runs/none.ckpt" in message
    assert "model.init_from: null" in message
