"""The sbatch script."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from coprs_lightning.commands import UsageError
from coprs_lightning.slurm.options import JobOptions
from coprs_lightning.slurm.script import sbatch_script
from coprs_lightning.slurm.shape import Shape

TWO = Shape(2, 8, 8, ("--trainer.devices", "8"))


def directives(script: str) -> set[str]:
    return {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}


def test_everything_asked_for_is_in_it(tmp_path: Path) -> None:
    job = JobOptions(partition="gpu", time="12:00:00", mem="480G", cpus_per_task=8, output=str(tmp_path))
    script = sbatch_script(job, TWO, "mine", ["--config", "a.yaml"])
    assert directives(script) == {
        "job-name=mine", "nodes=2", "ntasks-per-node=8", "gpus-per-node=8", "partition=gpu", "time=12:00:00",
        "mem=480G", "cpus-per-task=8", "requeue", "open-mode=append", "signal=USR1@120",
        f"output={tmp_path}/mine-%j.log",
    }  # fmt: skip
    assert "@" not in script.replace("USR1@120", "")
    assert f"export RUN={tmp_path}/mine-$SLURM_JOB_ID" in script
    assert "srun --kill-on-bad-exit=1 --label --cpus-per-task=8 \\\n" in script
    assert not re.search(r"^export NCCL", script, flags=re.MULTILINE)  # off by default, there to be taken


def test_what_is_not_asked_for_is_not() -> None:
    script = sbatch_script(JobOptions(), Shape(1, 1, 0, ()), "mine", [])
    assert not any(line.startswith(("gpus", "mem", "time", "partition", "cpus")) for line in directives(script))


def test_bash_sees_the_words_that_were_given(tmp_path: Path) -> None:
    """The script runs, with an srun that only writes down its words."""
    words = ["--config", "my data/a.yaml", "--model.x", "it's $(touch hacked) `touch hacked`", "--trainer.limit", "-1"]
    words += ["--model.y", 'two\n\n\nlines "quoted" @NODES@ \\n', "--model.z=*"]
    job = JobOptions(output=str(tmp_path / "out"), setup=["export GREETING='hello you'"], container="a b.sqsh")
    script = sbatch_script(job, TWO, "mine", words)
    (tmp_path / "srun").write_text(f'#!/bin/sh\nprintf "%s\\0" "$GREETING" "$@" > {tmp_path}/seen\n')
    (tmp_path / "srun").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
    done = subprocess.run(["bash"], input=script, text=True, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    seen = (tmp_path / "seen").read_text().split("\0")[:-1]
    run = str(tmp_path / "out" / "mine-7")
    folder = f"--container-workdir={Path.cwd()}"
    own = ["--kill-on-bad-exit=1", "--label", "--container-image=a b.sqsh", folder, "coprs", "fit"]
    last = ["--trainer.default_root_dir", run, "--resume", "auto"]
    assert seen == ["hello you", *own, *words, *TWO.words, *last]
    assert not (tmp_path / "hacked").exists()
    assert Path(run).is_dir()


def test_without_a_container_this_interpreter_runs() -> None:
    assert f"{sys.executable} -m coprs_lightning fit" in sbatch_script(JobOptions(), TWO, "mine", [])


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.sbatch"
    path.write_text("#!/bin/bash\n@RESOURCES@\n@COMMAND@ # @NODES@ nodes\n")
    script = sbatch_script(JobOptions(template=str(path)), Shape(2, 1, 0, ()), "mine", ["--a", "b"])
    assert script == f"#!/bin/bash\n\n{sys.executable} -m coprs_lightning fit \\\n  --a b # 2 nodes\n"
    path.write_text("@NODE@")
    with pytest.raises(UsageError, match=r"@NODE@ is not known\. Known are: @NAME@, @NODES@"):
        sbatch_script(JobOptions(template=str(path)), TWO, "mine", [])
    with pytest.raises(UsageError, match=r"--template .*none cannot be read"):
        sbatch_script(JobOptions(template=str(tmp_path / "none")), TWO, "mine", [])


def test_it_begins_in_the_folder_of_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the script is queued again, and whatever the folder is called."""
    folder = tmp_path / "it's $HOME"
    folder.mkdir()
    monkeypatch.chdir(folder)
    script = sbatch_script(JobOptions(output=str(tmp_path)), TWO, "mine", [])
    (tmp_path / "srun").write_text(f"#!/bin/sh\npwd > {tmp_path}/seen\n")
    (tmp_path / "srun").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
    subprocess.run(["bash"], input=script, text=True, cwd="/", env=environment, capture_output=True, check=True)
    assert (tmp_path / "seen").read_text() == f"{folder}\n"


def test_bash_finds_no_mistake_in_it() -> None:
    job = JobOptions(setup=["module load cuda"], container="a.sqsh", container_mounts="/data:/data,/home")
    for script in (sbatch_script(job, TWO, "mine", ["--a", "it's"]), sbatch_script(JobOptions(), TWO, "mine", [])):
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
