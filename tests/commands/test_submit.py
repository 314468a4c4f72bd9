"""`coprs submit` up to the queue; what comes after is in tests/integration/test_preemption.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coprs_lightning.cli import main
from tests.tiny import write_config


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["submit", *words])
    assert caught.value.code in (1, 2)
    return capsys.readouterr().err


def test_a_dry_run_prints_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--config", "coprs.yaml", "--nodes", "2", "--gpus-per-node", "8", "--trainer.num_nodes", "2"]
    assert main(["submit", *words, "--time", "12:00:00", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=8\n#SBATCH --gpus-per-node=8\n" in out
    assert "#SBATCH --job-name=coprs\n" in out
    assert "is not there; the job fails unless its nodes see it" in err
    assert not list(tmp_path.iterdir())


def test_configs_are_named_by_whole_paths(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    assert main(["submit", "--config", tiny.name, "--dry-run"]) == 0
    assert f"--config {tiny} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "2"], r"--nodes 2, but trainer\.num_nodes is 1"),
        (["--trainer.max_step", "3"], "max_step"),
        (["--model.decoder", "NoDecoder"], "NoDecoder"),
        (["--resume", "none"], "--resume cannot be given to `coprs submit`: the job goes on"),
        (["--trainer.default_root_dir", "x"], "each job has a folder of its own in --output"),
        (["--trainer.default_root_dir=x"], "each job has a folder of its own in --output"),
        (["--trainer.num_nodes", "two"], r"trainer\.num_nodes: expected int, got 'two'\.\nNothing was queued"),
        (
            ["--trainer.devices", "${trainer.max_steps}"],
            "refers to what is not known .* add --trainer.devices",
        ),
        (["--callbacks.checkpoint.init_args.dirpath", "all"], "go on from each other's checkpoints"),
        (["what"], "'what' belongs to no option"),
        (["--time", "0:01:00"], "--time 0:01:00 leaves no time before --signal-seconds 120"),
    ],
)
def test_mistakes_are_found_before_anything_is_queued(
    words: list[str], message: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    more = ["--trainer.num_nodes", "1"] if "--nodes" in words else []
    told = refused(["--config", str(tiny), "--dry-run", *words, *more], capsys)
    assert re.search(message, told), told


def test_a_folder_of_the_config_gives_way_with_a_note(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--config", str(tiny), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert f"trainer.default_root_dir {tiny.parent / 'run'} of the config is not used: each job has" in err
    assert out.rstrip().endswith('--trainer.default_root_dir "$RUN" --resume auto')


def test_options_joined_to_their_file_get_whole_paths(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    write_config(tiny.parent / "short.yaml", {"max_steps": 1})
    assert main(["submit", "--config", str(tiny), "--dry-run", "--trainer=short.yaml"]) == 0
    assert f"  --trainer={tiny.parent / 'short.yaml'} \\\n" in capsys.readouterr().out


def test_a_container_finds_the_shipped_configs_by_name(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", "coprs.yaml", "--config", str(tiny), "--trainer", "trainer/cpu.yaml", "--dry-run"]
    assert main(["submit", *words, "--container", "image.sqsh"]) == 0
    out, err = capsys.readouterr()
    assert "  coprs fit \\\n" in out
    assert f"  --config coprs.yaml \\\n  --config {tiny} \\\n  --trainer trainer/cpu.yaml \\\n" in out
    assert "without --container-mounts the image itself must show" in err


def test_inside_a_job_it_says_so(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert main(["submit", "--config", str(tiny), "--dry-run"]) == 0
    assert "this is inside job 12" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\ntouch {tmp_path}/queued\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    told = refused(["--config", str(tiny), "--output", str(tiny)], capsys)
    assert f"--output {tiny} cannot hold the job's script, log and run" in told
    assert not (tmp_path / "queued").exists()


def test_a_config_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--config is missing" in refused(["--nodes", "2"], capsys)


def test_without_slurm_it_says_so(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("sbatch") is None
    assert "sbatch is not found: this machine has no SLURM" in refused(["--config", str(tiny)], capsys)


def test_what_sbatch_says_is_told(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2; exit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    told = refused(["--config", str(tiny), "--output", str(tmp_path / "out")], capsys)
    kept = tmp_path / "out" / "coprs-tiny-refused.sbatch"
    assert f"sbatch refused the job: invalid partition. The script is {kept}." in told
    assert list((tmp_path / "out").iterdir()) == [kept]


def test_a_queued_job_is_told_with_what_to_do(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'no account: default' >&2; echo '77;main'\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert main(["submit", "--config", str(tiny), "--output", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert "sbatch says: no account: default" in err
    for told in ("job 77: 1 node(s) × 1 process(es)", "scancel 77\n", "scancel --signal=USR1 77\n"):
        assert told in out
    for ending in (".sbatch", ".log", "\n"):
        assert f"{tmp_path / 'out' / 'coprs-tiny-77'}{ending}" in out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["coprs-tiny-77.sbatch"]
