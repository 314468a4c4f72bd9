"""Options of a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coprs_lightning.cli_configs import load_yaml, shipped_configs
from coprs_lightning.commands import UsageError
from coprs_lightning.slurm.options import JobOptions, read_options
from tests.tiny import write_config


def test_the_command_line_stands_above_the_cluster(tmp_path: Path) -> None:
    file = write_config(tmp_path / "mine.yaml", {"partition": "slow", "cpus_per_task": 8, "setup": ["module load x"]})
    found = read_options({"partition": "fast", "nodes": "2", "account": None, "setup": []}, str(file))
    assert found == JobOptions(partition="fast", cpus_per_task=8, nodes=2, setup=["module load x"])


def test_the_shipped_example_is_valid() -> None:
    path = shipped_configs() / "slurm" / "example_cluster.yaml"
    assert read_options({}, str(path)).partition == load_yaml(path)["partition"]


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    file = write_config(tmp_path / "mine.yaml", {"partitoin": "slow"})
    with pytest.raises(UsageError, match=r"'partitoin' is no option of a job\. Did you mean partition"):
        read_options({}, str(file))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nodes": "0"}, "--nodes must be a whole number of at least 1, got '0'"),
        ({"nodes": "²"}, "--nodes must be a whole number of at least 1, got '²'"),
        ({"gpus_per_node": "all"}, "--gpus-per-node must be a whole number of at least 0"),
        ({"time": "soon"}, "--time 'soon' is no time"),
        ({"time": 43200}, "--time 43200 must be in quotes"),
        ({"job_name": "bash"}, "--job-name 'bash': takes letters"),
        ({"job_name": "a b"}, "--job-name 'a b': takes letters"),
        ({"partition": "x\n#SBATCH --uid=0"}, "--partition .* cannot stand in a #SBATCH line"),
        ({"account": "a b"}, "--account 'a b': cannot stand"),
        ({"output": "my runs"}, "--output 'my runs': SLURM cannot write its log to /.*/my runs"),
        ({"output": "runs/%u"}, "--output 'runs/%u': SLURM cannot write its log"),
        ({"container": "a\nb"}, "must be one line"),
        ({"output": ""}, "--output '': must be one line"),
        ({"setup": ["a\nb"]}, "--setup takes lines of shell"),
        ({"setup": 5}, "--setup takes lines of shell, got 5"),
        ({"setup": {"module": "cuda"}}, "--setup takes lines of shell, got {'module': 'cuda'}"),
    ],
)
def test_what_slurm_could_not_take_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_options(given, None)


def test_the_folder_that_it_runs_in_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my data").mkdir()
    monkeypatch.chdir(tmp_path / "my data")
    with pytest.raises(UsageError, match=r"--output 'runs/slurm': SLURM cannot write its log to .*/my data/runs/slurm"):
        read_options({}, None)
    assert read_options({"output": str(tmp_path)}, None).output == str(tmp_path)


def test_a_cluster_names_its_template_from_its_own_folder(tmp_path: Path) -> None:
    file = write_config(tmp_path / "mine.yaml", {"template": "mine.sbatch"})
    assert read_options({}, str(file)).template == str(tmp_path / "mine.sbatch")
    assert read_options({"template": "other.sbatch"}, str(file)).template == "other.sbatch"
