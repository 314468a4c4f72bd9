"""Finding configs, the order of options, YAML mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from coprs_lightning import cli_configs
from coprs_lightning.cli_configs import (
    Option,
    check_order,
    find_config,
    last_value,
    load_yaml,
    options,
    resolve_names,
    shipped_configs,
    shipped_names,
)
from coprs_lightning.commands import UsageError
from tests.conftest import REPO


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shipped folder with two configs of one name, and an empty folder to stand in."""
    folder = (tmp_path / "configs").resolve()
    for name in ("quickstart.yaml", "trainer/gpu.yaml", "model/small.yaml", "data/small.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a: 1\n")
    monkeypatch.setattr(cli_configs, "shipped_configs", lambda: folder)
    here = tmp_path / "some" / "folder"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    return folder


def test_the_shipped_folder_is_beside_the_package() -> None:
    assert shipped_configs() == REPO / "configs"
    assert shipped_names()


def test_words_become_options() -> None:
    words = ["-c", "a.yaml", "--x=1", "--flag", "--y", "-1", "stray"]
    assert list(options(words)) == [
        Option("-c", "a.yaml"),
        Option("--x", "1", joined=True),
        Option("--flag", None),
        Option("--y", "-1"),
        Option("stray", None),
    ]
    assert [word for option in options(words) for word in option.words()] == words


def test_a_file_of_the_users_comes_first(shipped: Path) -> None:
    Path("quickstart.yaml").write_text("mine: 1\n")
    assert find_config("quickstart.yaml") == "quickstart.yaml"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("quickstart.yaml", "quickstart.yaml"),
        ("configs/quickstart.yaml", "quickstart.yaml"),
        ("trainer/gpu.yaml", "trainer/gpu.yaml"),
        ("gpu.yaml", "trainer/gpu.yaml"),
    ],
)
def test_shipped_configs_are_found_by_name(
    name: str, found: str, shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_config(name) == str(shipped / found)
    assert f"using the shipped configs/{found}" in capsys.readouterr().err


def test_ambiguous_names_are_refused(shipped: Path) -> None:
    with pytest.raises(UsageError, match=r"several shipped ones have that name: data/small.yaml, model/small.yaml"):
        find_config("small.yaml")


def test_missing_configs_are_refused_with_near_names(shipped: Path) -> None:
    with pytest.raises(UsageError, match=r"is neither here .* Did you mean quickstart.yaml\?"):
        find_config("quikstart.yaml")
    with pytest.raises(UsageError, match=r"Did you mean trainer/gpu.yaml\?"):
        find_config("nowhere/gpu.yml")
    Path("mine.yaml").write_text("")
    with pytest.raises(UsageError, match=r"There are: data/small.yaml, .*mine.yaml"):
        find_config("zzz.yaml")
    with pytest.raises(UsageError, match=r"Did you mean mine.yaml\?"):
        find_config("mien.yaml")


def test_nothing_outside_the_shipped_folder_is_served(shipped: Path) -> None:
    (shipped.parent / "secret.yaml").write_text("a: 1\n")
    with pytest.raises(UsageError, match="is neither here"):
        find_config("../secret.yaml")


def test_config_options_and_group_files_are_resolved(shipped: Path) -> None:
    words = ["--config", "quickstart.yaml", "--trainer=trainer/gpu.yaml", "--model.x", "3"]
    quick, gpu = str(shipped / "quickstart.yaml"), str(shipped / "trainer/gpu.yaml")
    assert resolve_names(words) == ["--config", quick, f"--trainer={gpu}", "--model.x", "3"]


def test_a_config_option_needs_a_file(shipped: Path) -> None:
    with pytest.raises(UsageError, match=r"--config needs a file; shipped ones: quickstart.yaml\."):
        resolve_names(["--config"])


@pytest.mark.parametrize(
    "words",
    [
        ["--trainer.max_steps", "3", "--config", "a.yaml"],
        ["-c", "b.yaml", "--trainer.max_steps=3", "-c", "a.yaml"],
    ],
)
def test_options_before_a_config_are_refused(words: list[str]) -> None:
    with pytest.raises(
        UsageError, match=r"`--trainer.max_steps[ =]3` stands before `--config a.yaml`.*Put options after"
    ):
        check_order(words)


def test_options_after_the_configs_are_accepted() -> None:
    check_order(["-c", "a.yaml", "-c", "b.yaml", "--trainer.max_steps", "3"])
    check_order(["--ckpt_path", "x", "--config", "a.yaml"])
    check_order(["--trainer.max_steps", "3"])


def test_the_last_value_of_an_option_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("ckpt_path: a\n")
    second.write_text("seed_everything: 1\n")
    configs = ["-c", str(first), "-c", str(second)]
    assert last_value([], "ckpt_path") is None
    assert last_value(configs, "ckpt_path") == "a"
    assert last_value([*configs, "--ckpt_path=b"], "ckpt_path") == "b"
    assert last_value([*configs, "--ckpt_path", "null"], "ckpt_path") is None


def test_yaml_mistakes_name_the_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: [1\nb: {")
    with pytest.raises(UsageError, match=r"a.yaml is no valid YAML: line 2, column 2"):
        load_yaml(file)
    file.write_text("- 1\n")
    with pytest.raises(UsageError, match=r"must hold `key: value` lines, it holds a list"):
        load_yaml(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is no UTF-8 text"):
        load_yaml(file)
    file.write_text("")
    assert load_yaml(file) == {}
