"""`coprs fit` and its sisters by running them: sizes, callbacks, loggers, merging, help."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI

from coprs_lightning.cli import main
from coprs_lightning.cli_lightning import CALLBACKS, LINKS, CoprsCLI, run
from coprs_lightning.heatmap_heads import CosineHead, FiLMHead
from tests.tiny import MODEL, SIDE, tiny_config, write_config

FAST = ["--trainer.fast_dev_run", "true"]


class NoSizeData(pl.LightningDataModule):
    """A datamodule that has no ``image_size`` to derive."""

    def train_dataloader(self) -> list[Any]:
        return []


def callback_names(cli: CoprsCLI) -> set[str]:
    return {type(callback).__name__ for callback in cli.trainer.callbacks}  # type: ignore[attr-defined]


def test_sizes_flow_from_part_to_part(tiny: Path) -> None:
    cli = run(["fit", "--config", str(tiny), *FAST])
    parts = cli.model.model
    assert parts.aggregator.hidden_size == parts.policy.hidden_size == 16
    assert parts.heatmap_head.query_dim == parts.aggregator.query_dim
    assert parts.heatmap_head.in_channels == parts.decoder.in_channels == parts.backbone.out_channels
    assert cli.datamodule.image_size == parts.image_size == SIDE


def test_the_number_of_tokens_is_typed_once(tiny: Path) -> None:
    content = yaml.safe_load(tiny.read_text())
    content["model"]["policy"]["init_args"]["prompt"] = {"num_tokens": 3}
    content["model"]["aggregator"] = {"class_path": "MultiTokenAggregator"}
    parts = run(["fit", "--config", str(write_config(tiny, content)), *FAST]).model.model
    assert parts.policy.prompt.num_tokens == parts.policy.num_tokens == parts.aggregator.num_tokens == 3
    assert parts.policy.prompt.render_completion("a").count("<REF_POS>") == 3


def test_sizes_follow_swapped_and_changed_parts(tiny: Path) -> None:
    flags = ["--model.heatmap_head", "CosineHead", "--model.aggregator", "AttentionPoolAggregator"]
    sizes = ["--model.backbone.image_size", "64", "--model.backbone.position_channels", "8"]
    cli = run(["fit", "--config", str(tiny), *flags, *sizes, *FAST])
    parts = cli.model.model
    assert isinstance(parts.heatmap_head, CosineHead)
    assert parts.heatmap_head.query_dim == parts.aggregator.query_dim
    assert parts.decoder.in_channels == parts.backbone.out_channels
    assert cli.datamodule.image_size == 64


def test_the_frame_size_that_the_backbone_s_weights_want_is_not_typed(tiny: Path) -> None:
    content = yaml.safe_load(tiny.read_text())
    del content["model"]["backbone"]["init_args"]["image_size"]
    cli = run(["fit", "--config", str(write_config(tiny, content)), *FAST])
    assert cli.datamodule.image_size == cli.model.model.backbone.preprocessing.image_size == 160


def test_a_datamodule_without_image_size_is_accepted(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPRS_ALLOW_IMPORTS", "tests")
    content = yaml.safe_load(tiny.read_text())
    content["data"] = {"class_path": "tests.test_cli_lightning.NoSizeData"}
    cli = run(["fit", "--config", str(write_config(tiny, content)), *FAST])
    assert isinstance(cli.datamodule, NoSizeData)


def test_every_link_names_a_real_option() -> None:
    assert len(LINKS) == 6
    assert all(source.startswith("model.") for source in LINKS.values())


def test_default_callbacks_are_there(tiny: Path) -> None:
    cli = run(
        ["fit", "--config", str(tiny), "--callbacks.panels", "HeatmapPanels", "--trainer.enable_progress_bar", "true"]
    )
    expected = {spec["class_path"].rpartition(".")[2] for spec in CALLBACKS.values()}
    assert expected <= callback_names(cli)
    checkpoint = cli.trainer.checkpoint_callback
    assert isinstance(checkpoint, ModelCheckpoint)
    assert (checkpoint.monitor, checkpoint.mode, checkpoint.save_last) == ("val/giou", "max", True)


def test_a_list_of_callbacks_in_a_config_drops_none_of_the_defaults(tiny: Path, tmp_path: Path) -> None:
    overlay = write_config(tmp_path / "o.yaml", {"trainer": {"callbacks": [{"class_path": "LearningRateMonitor"}]}})
    cli = run(["fit", "--config", str(tiny), "--config", str(overlay)])
    assert {"IoUMetrics", "NaNGuard", "BestAndLast", "LearningRateMonitor"} <= callback_names(cli)


def test_options_of_the_trainer_leave_no_room_for_some(tiny: Path) -> None:
    assert "CoprsProgressBar" not in callback_names(run(["fit", "--config", str(tiny)]))
    own = ["--trainer.enable_progress_bar", "true", "--trainer.callbacks+", "TQDMProgressBar"]
    names = callback_names(run(["fit", "--config", str(tiny), *own]))
    assert "TQDMProgressBar" in names
    assert "CoprsProgressBar" not in names


def test_a_barebones_trainer_has_none(tiny: Path) -> None:
    content = yaml.safe_load(tiny.read_text())
    content["trainer"] = {"barebones": True, "accelerator": "cpu", "max_steps": 1}
    cli = run(["fit", "--config", str(write_config(tiny, content))])
    assert "IoUMetrics" not in callback_names(cli)
    assert cli.trainer.loggers == []


def test_default_callbacks_can_be_changed_and_turned_off(tiny: Path) -> None:
    off = ["--callbacks.nan_guard", "null", "--callbacks.checkpoint.save_top_k", "2"]
    cli = run(["fit", "--config", str(tiny), *off, "--callbacks.iou.per_kind", "false"])
    assert "NaNGuard" not in callback_names(cli)
    assert cli.trainer.checkpoint_callback.save_top_k == 2
    assert cli.trainer.checkpoint_callback.monitor == "val/giou"
    assert not any(name.startswith("val/giou/") for name in cli.trainer.callback_metrics)


def test_checkpointing_can_be_turned_off(tiny: Path, tmp_path: Path) -> None:
    cli = run(["fit", "--config", str(tiny), "--trainer.enable_checkpointing", "false"])
    assert cli.trainer.checkpoint_callback is None
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_tensorboard_and_csv_are_on_by_default(tiny: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(tiny)])
    run_folder = tmp_path / "run"
    assert list(run_folder.glob("logs/version_0/events.*"))
    with (run_folder / "logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert any(row["val/giou"] for row in rows)
    assert any(row["train/loss"] for row in rows)


def test_loggers_can_be_chosen_and_turned_off(tiny: Path, tmp_path: Path) -> None:
    assert run(["fit", "--config", str(tiny), "--trainer.logger", "false"]).trainer.loggers == []
    own = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path / "own")]
    assert [type(logger).__name__ for logger in run(["fit", "--config", str(tiny), *own]).trainer.loggers] == [
        "CSVLogger"
    ]


def test_overlays_merge_left_to_right_and_flags_win(tiny: Path, tmp_path: Path) -> None:
    first = write_config(tmp_path / "1.yaml", {"model": {"optimizer": {"learning_rate": 0.5, "weight_decay": 0.25}}})
    second = write_config(tmp_path / "2.yaml", {"model": {"optimizer": {"learning_rate": 0.125}}})
    configs = [word for file in (tiny, first, second) for word in ("--config", str(file))]
    options = run(["fit", *configs, "--model.optimizer.warmup_fraction", "0.5", *FAST]).model.optimizer_options
    assert (options.learning_rate, options.weight_decay, options.warmup_fraction) == (0.125, 0.25, 0.5)


def test_groups_are_read_relative_to_the_base_config(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tiny_data, tmp_path / "run")
    folder = tmp_path / "configs"
    for group in ("model", "data", "trainer"):
        (folder / group).mkdir(parents=True)
        write_config(folder / group / "one.yaml", config[group])
    (folder / "heads").mkdir()
    write_config(folder / "heads" / "film.yaml", {"class_path": "FiLMHead", "init_args": {"dim": 8, "depth": 1}})
    model = {**MODEL, "heatmap_head": "../heads/film.yaml"}
    write_config(folder / "model" / "one.yaml", model)
    groups = {group: f"{group}/one.yaml" for group in ("model", "data", "trainer")}
    base = write_config(folder / "base.yaml", groups)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    cli = run(["fit", "--config", str(base), *FAST])
    assert isinstance(cli.model.model.heatmap_head, FiLMHead)
    assert cli.datamodule.batch_size == 4


def test_interpolations_follow_overrides_across_files(tiny: Path, tmp_path: Path) -> None:
    overlay = {"model": {"generation": {"max_new_tokens": "${data.init_args.batch_size}"}}}
    file = write_config(tmp_path / "o.yaml", overlay)
    cli = run(["fit", "--config", str(tiny), "--config", str(file), "--data.batch_size", "3", *FAST])
    assert cli.model.generation.max_new_tokens == 3


def test_environment_variables_are_resolved(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_RUNS", str(tmp_path / "mine"))
    overlay = write_config(tmp_path / "o.yaml", {"trainer": {"default_root_dir": "${oc.env:MY_RUNS}/a"}})
    cli = run(["fit", "--config", str(tiny), "--config", str(overlay), *FAST])
    assert cli.trainer.default_root_dir == str(tmp_path / "mine" / "a")


def test_the_saved_config_replays_the_run(tiny: Path, tmp_path: Path) -> None:
    first = run(["fit", "--config", str(tiny), "--model.heatmap_head", "FiLMHead", "--seed_everything", "5"])
    saved = tmp_path / "run" / "config.yaml"
    again = run(["fit", "--config", str(saved), "--trainer.default_root_dir", str(tmp_path / "again")])
    assert first.model.spec == again.model.spec
    assert all(
        torch.equal(old, new)
        for old, new in zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_shows_every_option_of_the_model(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: coprs {command} --config FILE")
    for name in MODEL:
        assert f"--model.{name}" in shown
    for name in ("learning_rate", "max_steps", "default_root_dir", "callbacks.iou", "data", "ckpt_path", "FiLMHead"):
        assert name in shown


def test_help_of_one_part_shows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--model.heatmap_head.help", "FiLMHead"])
    shown = capsys.readouterr().out
    assert "--model.heatmap_head.depth DEPTH" in shown
    assert "blocks. (type: int, default:" in shown


def test_the_config_can_be_printed(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", str(tiny), "--model.generation.max_new_tokens", "7", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["generation"]["max_new_tokens"] == 7
    assert "in_channels" not in printed["model"]["heatmap_head"]["init_args"]


def test_the_private_hooks_that_are_overridden_still_exist() -> None:
    # each of them vanishing would bring back a silent default of Lightning's
    for name in ("_parse_ckpt_path", "_prepare_subcommand_parser", "_run_subcommand", "_instantiate_trainer"):
        assert callable(getattr(LightningCLI, name))
        assert name == "_instantiate_trainer" or getattr(CoprsCLI, name) is not getattr(LightningCLI, name)


def test_part_errors_are_messages(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        main(["fit", "--config", str(tiny), "--model.heatmap_head.dim", "15"])
    assert "coprs: error: CrossAttentionHead.dim 15 is no multiple of num_heads 4" in capsys.readouterr().err
