"""The `coprs` command itself: what it dispatches, what it imports, how it fails."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from coprs_lightning import __version__, cli
from coprs_lightning.cli import TRAINER_COMMANDS, commands, main
from coprs_lightning.cli_errors import DEBUG_ENV, is_message, rank
from coprs_lightning.commands import CommandError, UsageError
from tests.conftest import REPO
from tests.tiny import refused

HEAVY = ("torch", "lightning", "transformers", "timm", "matplotlib", "numpy", "jsonargparse")


def run_python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], ["data", "--help"]])
def test_overviews_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    found = run_python(
        f"""
        import sys
        from coprs_lightning.cli import main
        main({words!r})
        print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
        """,
        tmp_path,
    )
    assert "HEAVY []" in found.stdout


def test_help_answers_within_two_seconds(tmp_path: Path) -> None:
    start = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-m", "coprs_lightning", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - start < 2
    assert "coprs fit --config quickstart.yaml" in found.stdout


def test_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in [*TRAINER_COMMANDS, "segment", "data"]:
        assert f"\n  {name} " in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"coprs {__version__}\n"


def test_no_command_shows_the_overview_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "commands:" in capsys.readouterr().out


def test_arguments_come_from_the_command_line_by_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["coprs", "--version"])
    main()
    assert __version__ in capsys.readouterr().out


def test_unknown_commands_are_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "`coprs` has no command 'fitt'. Did you mean `coprs fit`?" in refused(["fitt"], capsys)
    assert "`coprs data` has no command 'synthtic'. Did you mean `coprs data synthetic`?" in refused(
        ["data", "synthtic"], capsys
    )
    assert "`coprs data` needs a command" in refused(["data"], capsys)


def every_command() -> list[tuple[str, str]]:
    found, groups = [], ("convert", "data")
    for name in commands("coprs_lightning.commands"):
        group = commands(f"coprs_lightning.commands.{name}") if name in groups else {name: ""}
        prefix = f"{name}." if name in groups else ""
        found += [(f"coprs_lightning.commands.{prefix}{inner.replace('-', '_')}", inner) for inner in group]
    return found


@pytest.mark.parametrize(("module", "name"), every_command())
def test_every_command_keeps_the_contract(module: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = importlib.import_module(module)
    listed = commands(module.rpartition(".")[0])
    assert listed[name] == found.HELP
    assert "\n" not in found.HELP
    words = module.removeprefix("coprs_lightning.commands.").replace("_", "-").split(".")
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--help"])
    # argparse wraps the line
    assert found.HELP.split()[0] in capsys.readouterr().out


def test_options_of_commands_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["segment", "--check", "x", "--image", "x", "--question", "x", "--output", "x"]
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "--checkpoint" in capsys.readouterr().err


def raise_from(code: str, file: Path) -> Exception:
    """Run ``code`` from ``file`` and return what it raises."""
    file.write_text(textwrap.dedent(code))
    try:
        exec(compile(file.read_text(), str(file), "exec"), {})
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_deliberate_errors_of_this_project_are_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coprs_lightning.cli_errors._PACKAGES", (str(tmp_path) + os.sep,))
    assert is_message(raise_from('raise ValueError(\n    "sizes do not fit"\n)', tmp_path / "ours.py"))


def test_bugs_keep_their_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliberate = 'raise ValueError("elsewhere")'
    assert not is_message(raise_from(deliberate, tmp_path / "theirs.py"))
    monkeypatch.setattr("coprs_lightning.cli_errors._PACKAGES", (str(tmp_path) + os.sep,))
    assert not is_message(raise_from("int('x')", tmp_path / "ours.py"))
    assert not is_message(ValueError("never raised"))


def test_command_errors_have_exit_status_one_and_usage_errors_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails_with(error: Exception) -> None:
        def fail(words: list[str]) -> int:
            raise error

        monkeypatch.setattr(cli, "_dispatch", fail)

    monkeypatch.delenv(DEBUG_ENV, raising=False)
    fails_with(CommandError("no data"))
    message = refused(["x"], capsys, status=1)
    assert message == f"coprs: error: no data\n  (set {DEBUG_ENV}=1 or add --debug for the traceback)\n"
    fails_with(UsageError("no such option"))
    assert refused(["x"], capsys, status=2) == "coprs: error: no such option\n"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEBUG_ENV, "")
    with pytest.raises(UsageError, match="no command 'nothing'"):
        main(["nothing", "--debug"])
    monkeypatch.setenv(DEBUG_ENV, "1")
    with pytest.raises(UsageError, match="no command 'nothing'"):
        main(["nothing"])


def test_rank_follows_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert rank() == 0
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank() == 1
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert rank() == 3
    monkeypatch.setenv("RANK", "0")
    assert rank() == 0


def test_notes_come_from_rank_zero_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from coprs_lightning.cli_errors import note

    monkeypatch.setenv("RANK", "1")
    note("hidden")
    monkeypatch.setenv("RANK", "0")
    note("shown")
    assert capsys.readouterr().err == "coprs: shown\n"
