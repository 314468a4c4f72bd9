"""`coprs ablate --launcher slurm` on a real cluster of two nodes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO
from tests.slurm_cluster import Cluster, require_slurm, slurm_cluster
from tests.tiny import tiny_config, write_config

pytestmark = pytest.mark.slow

FILM = {"heatmap_head": {"class_path": "FiLMHead", "init_args": {"dim": 16, "depth": 1, "lr_multiplier": 1.0}}}
UPSAMPLE = {"decoder": {"class_path": "UpsampleDecoder", "init_args": {"lr_multiplier": 1.0}}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_slurm()
    pytest.importorskip("submitit")
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture
def here(tiny_data: Path, tmp_path: Path) -> Path:
    """A folder with ``tiny.yaml`` and overlays."""
    write_config(tmp_path / "tiny.yaml", tiny_config(tiny_data, tmp_path / "run"))
    write_config(tmp_path / "film.yaml", {"model": FILM})
    write_config(tmp_path / "up.yaml", {"model": UPSAMPLE})
    write_config(tmp_path / "broken.yaml", {"trainer": {"strategy": "no_such_strategy"}})
    return tmp_path


def start(cluster: Cluster, here: Path, *more: str) -> subprocess.Popen[str]:
    words = ["ablate", "--config", "tiny.yaml", "--output", "out", "--launcher", "slurm", "--slurm.time", "10"]
    return subprocess.Popen(
        [sys.executable, "-m", "coprs_lightning", *words, *more],
        env={**cluster.environment, "PYTHONPATH": str(REPO)},
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ablate(cluster: Cluster, here: Path, *more: str) -> tuple[int, str, str]:
    process = start(cluster, here, *more)
    out, told = process.communicate(timeout=500)
    return process.returncode, out, told


def results(here: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((here / "out" / "results.json").read_text())
    return content


def test_a_grid_runs_as_an_array_and_a_second_call_runs_nothing(cluster: Cluster, here: Path) -> None:
    grid = ["--axis", "heatmap_head=base,film.yaml", "--axis", "decoder=base,up.yaml", "--seeds", "2"]
    status, out, told = ablate(cluster, here, *grid, "--max-parallel", "4")
    assert status == 0, told
    assert "submitted 8 runs as job" in told
    cells = ["base", "decoder=up", "heatmap_head=film", "heatmap_head=film,decoder=up"]
    assert [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")][1:] == cells
    assert [cell["states"] for cell in results(here)["cells"]] == [{"1": "finished", "2": "finished"}] * 4
    assert all(cell["metrics"]["val/giou"]["n"] == 2 for cell in results(here)["cells"])
    script = next((here / "out" / "slurm").glob("*/*_submission.sh")).read_text()
    assert "#SBATCH --array=0-7%4" in script
    assert "#SBATCH --ntasks-per-node=1" in script

    before = cluster.run("squeue", "-h").stdout, sorted((here / "out" / "slurm").iterdir())
    status, out, told = ablate(cluster, here, *grid, "--max-parallel", "4")
    assert status == 0, told
    assert "8 of 8 runs are finished already and are not run again" in told
    assert "submitted" not in told
    assert "heatmap_head=film,decoder=up" in out
    assert (cluster.run("squeue", "-h").stdout, sorted((here / "out" / "slurm").iterdir())) == before


def test_a_failing_cell_is_reported_and_the_others_have_their_table(cluster: Cluster, here: Path) -> None:
    status, out, told = ablate(cluster, here, "--axis", "run=broken.yaml", "--max-parallel", "2")
    assert status == 3
    assert "run=broken, seed 1 failed: exit status 1" in told
    assert "no_such_strategy" in told
    assert "base" in out
    assert [cell["states"] for cell in results(here)["cells"]] == [{"1": "finished"}, {"1": "failed"}]


def test_a_cell_runs_on_two_nodes(cluster: Cluster, here: Path) -> None:
    two = ["--trainer.num_nodes", "2", "--trainer.strategy", "ddp"]
    status, _, told = ablate(cluster, here, *two)
    assert status == 0, told
    provenance = next((here / "out" / "cells" / "base" / "seed-1").glob("logs/*/provenance.json"))
    machine = json.loads(provenance.read_text())["machine"]
    assert (machine["world_size"], machine["nodes"]) == (2, 2)
    script = next((here / "out" / "slurm").glob("*/*_submission.sh")).read_text()
    assert "#SBATCH --nodes=2" in script


def test_an_array_outlives_a_kill_and_is_waited_for(cluster: Cluster, here: Path) -> None:
    first = start(cluster, here)
    wait_for_status(here, "running", first)
    first.kill()
    first.communicate()
    status, _, told = ablate(cluster, here)
    assert status == 0, told
    assert "1 runs of an earlier call are still in the queue; they are waited for" in told
    assert "submitted" not in told
    assert [cell["states"] for cell in results(here)["cells"]] == [{"1": "finished"}]


def test_a_stopped_ablation_cancels_its_jobs(cluster: Cluster, here: Path) -> None:
    first = start(cluster, here)
    wait_for_status(here, "running", first)
    first.terminate()
    _, told = first.communicate(timeout=60)
    assert first.returncode == 128 + 15, told
    end = time.monotonic() + 60
    while cluster.run("squeue", "-h").stdout.strip():
        assert time.monotonic() < end, cluster.run("squeue").stdout
        time.sleep(0.5)


def test_a_job_that_vanishes_is_reported(cluster: Cluster, here: Path) -> None:
    process = start(cluster, here)
    wait_for_status(here, "running", process)
    job = json.loads((here / "out/cells/base/seed-1/job.json").read_text())["job"]
    cluster.run("scancel", "--signal=KILL", "--full", job)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 3, told
    assert "base, seed 1 failed: " in told


def test_what_slurm_refuses_is_told(cluster: Cluster, here: Path) -> None:
    status, _, told = ablate(cluster, here, "--slurm.partition", "nowhere")
    assert status == 1
    assert "SLURM did not take the array" in told
    assert "invalid partition specified: nowhere" in told


def wait_for_status(here: Path, state: str, process: subprocess.Popen[str], seconds: float = 120) -> None:
    file = here / "out" / "cells" / "base" / "seed-1" / "status.json"
    end = time.monotonic() + seconds
    while (
        not file.is_file() or json.loads(file.read_text())["state"] != state or not (file.parent / "job.json").is_file()
    ):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)
