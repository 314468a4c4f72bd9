"""What a user reads after a mistake: one line that names the option, its choices and the nearest of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from coprs_lightning.cli import main
from coprs_lightning.cli_check import Checker, Setting, from_flag
from coprs_lightning.cli_lightning import LINKS, _sections
from coprs_lightning.component import Component
from coprs_lightning.heatmap_heads import CrossAttentionHead, HeatmapHead
from coprs_lightning.importing import ALLOW_ENV
from tests.tiny import MODEL, refused, tiny_config, write_config

HEAD = "model.heatmap_head"
NESTED = f"--{HEAD} tests.test_cli_check.NestedHead"
NESTED_WIDE = f"{NESTED} --{HEAD}.conditioner WideConditioner"


class Conditioner(Component):
    """A part of a part, to see that mistakes are explained at any depth."""


class WideConditioner(Conditioner):
    """Args: width: channels."""

    def __init__(self, *, width: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width


class NestedHead(HeatmapHead):
    """Args: conditioner: nested slot; scales: of the head."""

    def __init__(self, *, conditioner: Conditioner, scales: list[int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conditioner = conditioner


@pytest.fixture(autouse=True)
def _own_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_ENV, "tests")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (f"--{HEAD} FilmHead", "no HeatmapHead is called 'FilmHead'. Did you mean FiLMHead? Choices: CosineHead,"),
        (f"--{HEAD}.dimm 3", "CrossAttentionHead has no option 'dimm'. Did you mean dim? Options: bias_init, compile,"),
        (f"--{HEAD}.init_args.dimm 3", "CrossAttentionHead has no option 'dimm'. Did you mean dim?"),
        (f"--{HEAD}.dim abc", f"{HEAD}.dim: expected int, got 'abc'."),
        ("--trainer.max_steps many", "trainer.max_steps: expected int, got 'many'."),
        ("--trainer.precision 17", "trainer.precision: expected 64 or 32 or 16 or 'transformer-engine'"),
        ("--modle.head 3", "there is no section 'modle'. Did you mean model? Sections: callbacks, ckpt_path, data,"),
        ("--trainer.max_step 3", "trainer has no option 'max_step'. Did you mean max_steps"),
        ("--model.heatmap CosineHead", "model has no option 'heatmap'. Did you mean heatmap_head?"),
        ("--model.optimizer.lr 1", "model.optimizer has no option 'lr'. Options: betas, final_divisor,"),
        ("--model.policy.prompt.usr x", "prompt has no option 'usr'. Did you mean user? Options: completion, num_"),
        ("--data NoSuch", "no LightningDataModule is called 'NoSuch'. Choices: "),
        ("--data.batch_siz 3", "ShardDataModule has no option 'batch_siz'. Did you mean batch_size"),
        ("--callbacks.nanguard null", "callbacks has no option 'nanguard'. Did you mean nan_guard?"),
        ("--callbacks.nan_guard.foo 1", "NaNGuard has no option 'foo'. Options: check_gradients."),
        ("--trainer.callbacks+ IoUMetricz", "no Callback is called 'IoUMetricz'. Did you mean IoUMetrics?"),
        ("--trainer.logger NoLogger", "no Logger is called 'NoLogger'. Did you mean"),
        (
            f"--{HEAD} coprs_lightning.decoders.SamMaskDecoder",
            "'coprs_lightning.decoders.SamMaskDecoder' is no HeatmapHead.",
        ),
        (f"--{HEAD} coprs_lightning.nothing.X", "cannot be imported: No module named 'coprs_lightning.nothing'."),
        (f"--{HEAD} antigravity.Head", "is outside the packages that a config or checkpoint may import"),
        (f"--{HEAD} antigravity.Head", f"set {ALLOW_ENV}=antigravity"),
        (
            f"--{HEAD}.in_channels 3",
            f"{HEAD}.init_args.in_channels (--{HEAD}.in_channels): is derived from model.backbone",
        ),
        ("--model.aggregator.hidden_size 3", "is derived from model.policy.hidden_size; leave it out."),
        ("--data.image_size 3", "is derived from model.backbone.image_size; leave it out."),
        ("--model.generation.max_new_tokens ${model.nope}", "an interpolation `${…}` in a config cannot be resolved"),
        ("--seed_everything x", "seed_everything: expected bool or int, got 'x'."),
        ("stray", "unrecognized arguments: stray"),
        (
            f"--{HEAD} tests.test_cli_check.NestedHead",
            f"{HEAD}.init_args.conditioner is not set and has no default. Choices: Cond",
        ),
        (
            f"{NESTED} --{HEAD}.conditioner WideConditoner",
            "no Conditioner is called 'WideConditoner'. Did you mean WideConditioner or Conditioner?",
        ),
        (
            f"{NESTED_WIDE} --{HEAD}.conditioner.wdth 1",
            "WideConditioner has no option 'wdth'. Did you mean width? Options: frozen, lr_multiplier, width.",
        ),
        (
            f"{NESTED_WIDE} --{HEAD}.conditioner.width x",
            f"{HEAD}.conditioner.width: expected int, got 'x'.",
        ),
    ],
)
def test_mistakes_in_flags(flags: str, expected: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(["fit", "--config", str(tiny), *flags.split()], capsys)
    assert expected in message
    assert len(message.splitlines()) <= 3


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        ({"modle": {}}, "modle (OVERLAY): there is no section 'modle'. Did you mean model?"),
        ({"strategy": "ddp"}, "It is an option of trainer: give a file of such options as --trainer FILE."),
        ({"model": {"heatmap_head": {"class_path": "FilmHead"}}}, "(OVERLAY): no HeatmapHead is called 'FilmHead'."),
        (
            {"model": {"heatmap_head": {"class_path": "FiLMHead", "init_args": {"with": 3}}}},
            "(OVERLAY): FiLMHead has no option 'with'.",
        ),
        (
            {"model": {"heatmap_head": {"class_path": "FiLMHead", "dim": 3}}},
            "model.heatmap_head.dim (OVERLAY): stands beside class_path; options belong under model.heatmap_head.init",
        ),
        (
            {"model": {"heatmap_head": {"class_path": "FiLMHead", "init_args": 3}}},
            "init_args must be `key: value` lines, got 3.",
        ),
        ({"model": {"heatmap_head": {"init_args": {"in_channels": 3}}}}, "is derived from model.backbone.out_channels"),
        ({"model": 3}, "model (OVERLAY): expected a section of options, got 3."),
        ({"trainer": {"max_steps": "x"}}, "trainer.max_steps (OVERLAY): expected int, got 'x'."),
        ({"model": "nothere.yaml"}, "names the file 'nothere.yaml', but there is no"),
        ({"model": {"decoder": "nothere.yaml"}}, "model.decoder (OVERLAY): names the file 'nothere.yaml'"),
    ],
)
def test_mistakes_in_configs_name_the_file(
    overlay: dict[str, Any], expected: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_config(tmp_path / "overlay.yaml", overlay)
    message = refused(["fit", "--config", str(tiny), "--config", str(file)], capsys)
    assert expected.replace("OVERLAY", str(file)) in message
    assert len(message.splitlines()) <= 3


def test_mistakes_in_group_files_name_the_group_file(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(tiny_data, tmp_path / "run")
    (tmp_path / "model").mkdir()
    model = write_config(tmp_path / "model" / "small.yaml", {**MODEL, "optimiser": {}})
    base = write_config(tmp_path / "base.yaml", {**config, "model": "model/small.yaml"})
    message = refused(["fit", "--config", str(base)], capsys)
    assert f"model.optimiser ({model}): model has no option 'optimiser'. Did you mean optimizer?" in message


def test_nothing_given_asks_for_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(["fit"], capsys)
    assert "`coprs fit` needs a --config (" in message
    assert "is not set and has no default. Choices: " in message
    assert "or a run: coprs validate --ckpt_path RUN" in refused(["validate"], capsys)


def test_users_packages_are_importable_where_allowed(tiny: Path) -> None:
    head = ["--model.heatmap_head", "tests.test_cli_check.PlainHead"]
    assert main(["fit", "--config", str(tiny), *head, "--trainer.fast_dev_run", "true"]) == 0


class PlainHead(CrossAttentionHead):
    """A user's head."""


def checked(*settings: Setting) -> Checker:
    checker = Checker(_sections("fit"), LINKS)
    for setting in settings:
        checker.take(setting)
    return checker


def test_a_correct_config_has_no_problem(tiny: Path) -> None:
    checker = checked(Setting("tiny.yaml", yaml.safe_load(tiny.read_text())))
    assert checker.problem() is None
    assert checker.ignored == []
    assert checker.notes == []
    assert checker.classes["model.heatmap_head"] is CrossAttentionHead


def test_a_swapped_class_names_the_values_that_it_keeps(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", "--config", str(tiny), "--model.heatmap_head", "FiLMHead", "--trainer.fast_dev_run", "true"])
    note = "model.heatmap_head: FiLMHead replaces CrossAttentionHead and keeps its dim"
    assert f"{note} ({tiny})." in capsys.readouterr().err


def test_values_stated_beside_the_new_class_are_not_kept_ones(tiny: Path) -> None:
    base = Setting("tiny.yaml", yaml.safe_load(tiny.read_text()))
    swap = {"class_path": "FiLMHead", "init_args": {"dim": 8}}
    assert checked(base, Setting("swap.yaml", {"model": {"heatmap_head": swap}})).notes == []


def test_flags_become_nested_settings() -> None:
    assert from_flag("--a.b", "1").content == {"a": {"b": 1}}
    assert from_flag("--a.b", "{x: [1, null]}").content == {"a": {"b": {"x": [1, None]}}}
    assert from_flag("--a+", "X").content == {"a": ["X"]}
    assert from_flag("--a", "m.yaml").content == {"a": "m.yaml"}
    assert from_flag("--a", "{broken").content == {"a": "{broken"}
