"""From folders to tables: every number by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from callbacks.files import write_json
from coprs_lightning.ablation.plan import Run
from coprs_lightning.ablation.plot import draw
from coprs_lightning.ablation.results import Results, collect, command_of, plain
from coprs_lightning.ablation.tables import csv_text, markdown, notes, terminal
from tests.ablation.build import leave_failure, leave_results, make_run

CELLS = ["base", "head=film"]
SCORES = {"base": [0.50, 0.54, 0.58], "head=film": [0.56, 0.62, 0.62]}


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Two cells of three seeds, all finished."""
    found = [make_run(tmp_path, cell, seed) for seed in (1, 2, 3) for cell in CELLS]
    for run in found:
        leave_results(run, SCORES[run.cell][run.seed - 1])
    return found


def test_means_deviations_and_differences(runs: list[Run]) -> None:
    base, film = collect(CELLS, runs, ["val/giou"]).rows
    assert base.metrics["val/giou"].mean == pytest.approx(0.54)
    assert base.metrics["val/giou"].sd == pytest.approx(0.04)
    assert base.differences["val/giou"].n == 0
    less = film.differences["val/giou"]
    # differences 0.06, 0.08, 0.04: deviation 0.02, t(2) 4.3027
    assert (less.n, less.mean) == (3, pytest.approx(0.06))
    assert (less.low, less.high) == pytest.approx(
        (0.06 - 4.3027 * 0.02 / 3**0.5, 0.06 + 4.3027 * 0.02 / 3**0.5), abs=1e-5
    )
    assert (film.total, film.trainable) == (2000, 1500)
    assert (film.seconds.mean, film.seconds.sd) == (62.0, 1.0)


def test_metrics_have_the_names_of_the_log(runs: list[Run]) -> None:
    for name in ("val/giou/left", "giou", "val/giou"):
        assert collect(CELLS, runs, [name]).rows[0].metrics[name].mean == pytest.approx(0.54)
    assert collect(CELLS, runs, ["fit_seconds"]).rows[0].metrics["fit_seconds"].mean == 62


def test_a_metric_that_nobody_has_is_told_with_those_there_are(runs: list[Run]) -> None:
    results = collect(CELLS, runs, ["val/gIoU"])
    assert results.rows[0].metrics["val/gIoU"].n == 0
    (told,) = [text for text in notes(results) if "gIoU" in text]
    assert told == "No finished run has val/gIoU. There are: val/fit_seconds, val/giou, val/giou/left."


def test_numbers_that_are_none_do_not_count(runs: list[Run]) -> None:
    leave_results(runs[0], None)
    assert collect(CELLS, runs, ["val/giou"]).rows[0].metrics["val/giou"].n == 2


def test_a_failed_run_leaves_its_seed_out_of_the_pairs(runs: list[Run]) -> None:
    (runs[0].folder / "results.json").unlink()  # base, seed 1
    leave_failure(runs[0], exit_status=1)
    results = collect(CELLS, runs, ["val/giou"])
    base, film = results.rows
    assert (base.metrics["val/giou"].n, film.metrics["val/giou"].n, film.differences["val/giou"].n) == (2, 3, 2)
    page = markdown(results)
    assert "| base | 2 of 3 |" in page
    assert f"- base, seed 1: exit status 1; log: `{runs[0].folder / 'log.txt'}`" in page
    told = {(run["cell"], run["seed"]): run for run in plain(results)["runs"]}
    assert told["base", 1]["state"] == "failed"
    assert told["base", 1]["failure"] == "exit status 1"
    assert told["base", 2]["state"] == "finished"


def test_the_newest_record_of_a_run_tells_its_parameters(runs: list[Run]) -> None:
    counts = {"parameters": {"total": {"total": 7, "trainable": 3}}}
    write_json(runs[0].folder / "logs" / "version_1" / "provenance.json", counts)
    assert collect(["base"], [runs[0]], []).rows[0].total == 7
    write_json(runs[0].folder / "logs" / "version_2" / "provenance.json", {"parameters": {}})  # ended before it knew
    assert collect(["base"], [runs[0]], []).rows[0].total == 7


def test_the_page_has_table_and_commands(runs: list[Run]) -> None:
    page = markdown(collect(CELLS, runs, ["val/giou"]), parallel=2)
    assert "| cell | n | val/giou | val/giou less base | fit seconds | parameters | trainable |" in page
    assert "| base | 3 | 0.5400 ± 0.0400 |  | 62.0 ± 1.0 | 2,000 | 1,500 |" in page
    assert "| head=film | 3 | 0.6000 ± 0.0346 | +0.0600 [+0.0103, +0.1097] |" in page
    assert "Up to 2 runs shared the machine" in page
    assert all(command_of(run) in page for run in runs)


def test_a_command_can_be_pasted(tmp_path: Path) -> None:
    run = make_run(tmp_path, "base", 1, ("fit", "--config", "my file.yaml"))
    assert command_of(run) == "coprs fit --config 'my file.yaml'"


def test_the_csv_has_full_precision_and_every_seed(runs: list[Run]) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(collect(CELLS, runs, ["val/giou", "fit_seconds"])))))
    assert [(line["cell"], line["metric"]) for line in lines] == [
        *(("base", "val/giou"), ("base", "fit_seconds")),
        *(("head=film", "val/giou"), ("head=film", "fit_seconds")),
    ]
    film = lines[2]
    assert [float(film[f"seed_{seed}"]) for seed in (1, 2, 3)] == SCORES["head=film"]
    assert float(film["mean"]) == pytest.approx(0.6, abs=1e-15)
    assert lines[0]["difference"] == lines[0]["low"] == ""


def test_one_seed_is_told_to_show_nothing_and_has_no_interval(runs: list[Run]) -> None:
    results = collect(CELLS, [run for run in runs if run.seed == 1], ["val/giou"])
    page = markdown(results)
    assert "| head=film | 1 | 0.5600 | +0.0600 |" in page
    assert "One seed: there is no deviation and no interval" in page
    assert "±" not in page


def test_everything_is_plain_data(runs: list[Run]) -> None:
    content = json.loads(json.dumps(plain(collect(CELLS, runs, ["val/giou"])), allow_nan=False))
    film = content["cells"][1]
    assert film["metrics"]["val/giou"]["seeds"] == {"1": 0.56, "2": 0.62, "3": 0.62}
    assert film["metrics"]["val/giou"]["difference"]["n"] == 3
    assert content["runs"][0]["command"] == "coprs --version"


@pytest.mark.parametrize("seeds", [0, 1, 3])
def test_the_picture_is_drawn_with_any_number_of_seeds(seeds: int, runs: list[Run], tmp_path: Path) -> None:
    for run in runs:
        if run.seed > seeds:
            (run.folder / "results.json").unlink()
    results = collect(CELLS, [run for run in runs if run.seed <= max(1, seeds)], ["val/giou", "val/giou/left"])
    draw(results, tmp_path / "results.png")
    picture = Image.open(tmp_path / "results.png")
    assert picture.width > 900
    colours = picture.convert("RGB").getcolors(1 << 20)
    assert ((31, 119, 180) in {colour for _, colour in colours}) is (seeds > 0)  # means are drawn


def test_the_terminal_has_the_same_cells(runs: list[Run]) -> None:
    results: Results = collect(CELLS, runs, ["val/giou"])
    table = terminal(results)
    assert table.row_count == 2
    assert [str(column.header) for column in table.columns][:3] == ["cell", "n", "val/giou"]
