"""A run that is cut short by a signal goes on as if it had not been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coprs_lightning.cli import main
from tests.preempting import Diary, Signal, as_class, diary, same_weights
from tests.tiny import tiny_config, write_config

STEPS = 6


def config(data: Path, folder: Path, *more: dict[str, Any], every: int = 3, **trainer: Any) -> Path:
    """A run of six steps, four an epoch, validated after every third."""
    content = tiny_config(data, folder / "run")
    content["trainer"] |= {"max_steps": STEPS, "val_check_interval": every, "check_val_every_n_epoch": None, **trainer}
    content["trainer"]["callbacks"] = [as_class(Diary, folder=str(folder / "diary")), *more]
    content["data"]["init_args"] |= {"batch_size": 2, "eval_batch_size": 1}
    folder.mkdir(exist_ok=True)
    return write_config(folder / "config.yaml", content)


@pytest.fixture(autouse=True)
def _own_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPRS_ALLOW_IMPORTS", "tests")


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of runs that nothing interrupts, by the steps between validations."""
    folders = {every: tmp_path_factory.mktemp("whole") for every in (3, 4)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COPRS_ALLOW_IMPORTS", "tests")
        for every, folder in folders.items():
            main(["fit", "--config", str(config(tiny_data, folder, every=every))])
    return folders


def preempt(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status and messages of a run that is cut short."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(words)
    return int(caught.value.code or 0), capsys.readouterr().err


CUTS = {
    "inside an epoch": (3, {"step": 2}),
    "before a validation": (3, {"step": 3}),
    "in a validation": (3, {"step": 3, "validating": True}),
    "at the end of an epoch": (3, {"step": 4}),
    "before the last validation": (3, {"step": 6}),
    "in the last validation": (3, {"step": 6, "validating": True}),
    "before a validation at the end of an epoch": (4, {"step": 4}),
    "in a validation at the end of an epoch": (4, {"step": 4, "validating": True}),
    "at the first step of an epoch": (4, {"step": 5}),
}


@pytest.mark.parametrize(("every", "cut"), CUTS.values(), ids=CUTS)
def test_a_run_goes_on_as_if_nothing_had_happened(
    every: int,
    cut: dict[str, Any],
    whole: dict[int, Path],
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    once = config(tiny_data, tmp_path, as_class(Signal, **cut), every=every)
    status, told = preempt(["fit", "--config", str(once), "--resume", "auto"], capsys)
    preempted = tmp_path / "run" / "checkpoints" / "preempted.ckpt"
    assert status == 128 + 10
    assert f"SIGUSR1: saved step {cut['step']} to {preempted}" in told
    assert "The same command with --resume auto goes on from there" in told
    assert not (tmp_path / "run" / "results.json").exists()
    main(["fit", "--config", str(config(tiny_data, tmp_path, every=every)), "--resume", "auto"])
    assert f"--resume auto: going on from step {cut['step']}, {preempted}" in capsys.readouterr().err
    assert diary(tmp_path / "diary") == diary(whole[every] / "diary")
    last = Path("run", "checkpoints", "last.ckpt")
    assert same_weights(tmp_path / last, whole[every] / last) <= 1e-6
    assert (tmp_path / "run" / "results.json").is_file()
    assert [path.name for path in (tmp_path / "run").glob("checkpoints*")] == ["checkpoints"]


def test_sigterm_to_every_process_loses_no_example(
    whole: dict[int, Path], tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SLURM signals loader workers too, and a run needs its batches until the step's end."""
    cut = as_class(Signal, step=2, name="SIGTERM", everyone=True)
    workers = ["--data.init_args.num_workers", "2"]
    status, told = preempt(["fit", "--config", str(config(tiny_data, tmp_path, cut)), *workers], capsys)
    assert status == 128 + 15
    assert "SIGTERM: saved step 2" in told
    main(["fit", "--config", str(config(tiny_data, tmp_path)), *workers, "--resume", "auto"])
    seen, expected = (
        [[line.get("keys"), line.get("loss")] for line in diary(folder / "diary")[0]] for folder in (tmp_path, whole[3])
    )
    assert seen == expected


def test_a_run_that_is_about_to_end_just_ends(tiny_data: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(config(tiny_data, tmp_path, as_class(Signal, step=STEPS), every=4))])
    assert not (tmp_path / "run" / "checkpoints" / "preempted.ckpt").exists()
    assert [line["step"] for line in diary(tmp_path / "diary")[0]] == [1, 2, 3, 4, 4, 5, 6]
