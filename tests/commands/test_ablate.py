"""`coprs ablate` on this machine: mistakes are told before anything starts, and nothing is run twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coprs_lightning.cli import main
from coprs_lightning.commands import UsageError
from coprs_lightning.commands.ablate import parse_seeds
from tests.conftest import REPO
from tests.tiny import refused, write_config

UPSAMPLE = {"model": {"decoder": {"class_path": "UpsampleDecoder", "init_args": {"lr_multiplier": 1.0}}}}
BROKEN = {"trainer": {"strategy": "no_such_strategy"}}
"""Passes every check, and fails when the Trainer is built."""


@pytest.fixture
def here(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with ``tiny.yaml`` and overlays."""
    monkeypatch.chdir(tiny.parent)
    write_config(tiny.parent / "up.yaml", UPSAMPLE)
    write_config(tiny.parent / "broken.yaml", BROKEN)
    return tiny.parent


def words(*more: str) -> list[str]:
    return ["ablate", "--config", "tiny.yaml", "--output", "out", *more]


def started() -> list[Path]:
    return sorted(Path("out").glob("cells/*/*"))


def results() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("out/results.json").read_text())
    return content


def test_seeds_are_counted_or_listed() -> None:
    assert parse_seeds("3") == [1, 2, 3]
    assert parse_seeds("5,7") == [5, 7]
    assert parse_seeds("5,") == [5]
    for text in ("", "0", "three", "1,1", "-2", ","):
        with pytest.raises(UsageError, match=r"--seeds '.*' must"):
            parse_seeds(text)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--axis", "decoder=nothing.yaml"], "--axis decoder: there is no file 'nothing.yaml' here"),
        (["--axis", "decoder=up.yaml,up.yaml"], "would both be called decoder=up"),
        (["--axis", "heatmap_head=up.yaml"], "up.yaml sets model.decoder, and not model.heatmap_head"),
        (["--max-parallel", "0"], "--max-parallel must be at least 1, got 0"),
        (["--seed_everything", "5"], "--seed_everything cannot be given to the cells of an ablation"),
        (["--trainer.max_step", "5"], "cell base: trainer.max_step: trainer has no option 'max_step'"),
        (["--slurm.time", "5"], "--slurm.time is of no use to --launcher local"),
        (["--model.init_from", "no.ckpt"], "cell base: model.init_from: there is no no.ckpt to start from"),
        (["--data.init_args.val", "gone"], "cell base: data.init_args.val: "),
        (["--launcher", "slurm", "--trainer.devices", "auto"], "cell base: trainer.devices is 'auto'"),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    more: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(words(*more), capsys)
    assert not Path("out").exists()


def test_a_mistake_in_one_cell_is_told_with_its_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(here / "odd.yaml", {"model": {"heatmap_head": {"init_args": {"num_heads": 5}}}})
    told = refused(words("--axis", "decoder=up.yaml", "--axis", "heads=odd.yaml", "--mode", "one-at-a-time"), capsys)
    assert "cell heads=odd: CrossAttentionHead.dim 16 is no multiple of num_heads 5" in told
    assert "Nothing was started." in told
    assert not Path("out").exists()


def test_a_base_is_needed_and_a_file_is_no_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--config is missing: name the base" in refused(["ablate", "--output", "out"], capsys)
    assert "--output is missing" in refused(["ablate", "--report-only"], capsys)
    assert "--report-only: out holds no ablation" in refused(["ablate", "--report-only", "--output", "out"], capsys)
    assert "--output up.yaml is a file" in refused(
        ["ablate", "--config", "tiny.yaml", "--output", "up.yaml"], capsys, 1
    )


def test_variants_are_trained_compared_and_not_trained_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = words("--axis", "decoder=up.yaml", "--axis", "run=broken.yaml", "--mode", "one-at-a-time")
    with pytest.raises(SystemExit) as caught:  # what is sound has its table, what is not has its log
        main([*command, "--max-parallel", "2", "--metric", "val/giou", "--metric", "val/n"])
    assert caught.value.code == 3
    told = capsys.readouterr()
    assert "3 cells × 1 seeds = 3 runs in out" in told.err
    assert "run=broken, seed 1 failed: exit status 1. The end of out/cells/run=broken/seed-1/log.txt:" in told.err
    assert "no_such_strategy" in told.err
    assert "1 of 3 runs failed" in told.err
    assert "| decoder=up | 1 |" in " ".join(told.out.split())
    assert "One seed: there is no deviation and no interval" in " ".join(told.out.split())
    assert {path.name for path in Path("out").glob("results.*")} == {
        f"results.{end}" for end in ("csv", "json", "md", "png")
    }
    base, up, broken = results()["cells"]
    assert (base["metrics"]["val/n"]["mean"], up["metrics"]["val/n"]["difference"]["mean"]) == (2, 0)
    assert base["parameters"]["total"] > up["parameters"]["total"] > 0
    assert base["fit_seconds"]["mean"] > 0
    assert broken["states"] == {"1": "failed"}
    config = Path("out/cells/decoder=up/seed-1/config.yaml").read_text()
    assert "UpsampleDecoder" in config

    logs = {path: path.read_bytes() for path in Path("out").glob("cells/*/*/log.txt")}
    main(words("--axis", "decoder=up.yaml"))  # nothing is left to do
    assert "2 of 2 runs are finished already and are not run again" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("out").glob("cells/*/*/log.txt")} == logs
    main(["ablate", "--report-only", "--output", "out", "--metric", "val/ciou"])
    assert results()["metrics"] == ["val/ciou"]
    assert "val/ciou less base" in capsys.readouterr().out


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def at_work() -> list[str]:
    """Cells of this folder's ablation among the processes of the machine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode()
            here = os.readlink(entry.parent / "cwd") == str(Path.cwd())
        except OSError:
            continue
        if here and "out/cells/" in line:
            found.append(line)
    return found


def running(name: str) -> bool:
    file = Path("out/cells") / name / "seed-1" / "status.json"
    return file.is_file() and json.loads(file.read_text())["state"] == "running"


def ablate(*more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "coprs_lightning", *words(*more)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_ablation_that_was_stopped_goes_on(number: signal.Signals, here: Path) -> None:
    axis = ["--axis", "decoder=up.yaml"]
    first = ablate(*axis)
    wait_for(lambda: running("decoder=up"), first)  # the base is finished
    finished = Path("out/cells/base/seed-1/results.json").read_bytes()
    os.kill(first.pid, number)
    _, told = first.communicate(timeout=30)
    assert first.returncode == (-9 if number is signal.SIGKILL else 128 + number), told
    if number is not signal.SIGKILL:
        assert "the same command goes on with what is not finished" in told
    end = time.monotonic() + 20
    while at_work():  # the cells end with it, even after kill -9
        assert time.monotonic() < end, at_work()
        time.sleep(0.1)
    second = ablate(*axis)
    out, told = second.communicate(timeout=300)
    assert second.returncode == 0, told
    assert "1 of 2 runs are finished already and are not run again" in told
    assert "decoder=up" in out
    assert Path("out/cells/base/seed-1/results.json").read_bytes() == finished
    assert [cell["states"] for cell in results()["cells"]] == [{"1": "finished"}] * 2


@pytest.mark.slow
def test_a_config_that_was_edited_is_run_again_and_the_old_run_is_kept(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(words())
    (here / "tiny.yaml").write_text((here / "tiny.yaml").read_text().replace("max_steps: 2", "max_steps: 1"))
    main(words())
    assert "the configs have changed since; the earlier run is kept as" in capsys.readouterr().err
    steps = {path.parent.name[:12]: json.loads(path.read_text())["global_step"] for path in started_results()}
    assert steps == {"seed-1": 1, "seed-1-until": 2}


def started_results() -> list[Path]:
    return sorted(Path("out").glob("cells/base/*/results.json"))


def test_options_with_a_seed_are_checked_for_every_seed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "start-1.ckpt").touch()
    more = ["--seeds", "2", "--data.init_args.seed", "{seed}", "--model.init_from", "start-{seed}.ckpt"]
    assert "cell base: model.init_from: there is no start-2.ckpt to start from" in refused(words(*more), capsys)
