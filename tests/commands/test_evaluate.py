"""`coprs evaluate`: the same numbers again, on one process and on two, and nothing dropped in silence."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from coprs_lightning.checkpoints import load_model
from coprs_lightning.cli import main
from tests.conftest import REPO
from tests.datamodules.build import make_split
from tests.evaluation.talking import batches, export_talking
from tests.tiny import refused, write_config

TABLES = ("results.csv", "results.md", "examples.jsonl")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 images in 3 shards, 2 targets each, 3 expressions each."""
    return make_split(tmp_path_factory.mktemp("data") / "mine", 7, targets=2, expressions=3, num_shards=3)


@pytest.fixture(scope="module")
def talking(split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_talking(tmp_path_factory.mktemp("exported") / "talking", split)


@pytest.fixture(scope="module")
def config(split: Path) -> Path:
    """``mine``, and two images of it as a published split."""
    make_split(split.parent / "published", 2, targets=2, expressions=3, name="refcoco-unc-val")
    splits = {"mine": str(split), "refcoco/val": str(split.parent / "published")}
    return write_config(split.parent / "splits.yaml", {"splits": splits, "batch_size": 4})


def words(checkpoint: Path, config: Path | None, output: Path | None, *more: str) -> list[str]:
    given = ["--config", str(config)] if config else []
    place = ["--output", str(output)] if output else []
    return ["evaluate", "--checkpoint", str(checkpoint), *given, *place, "--accelerator", "cpu", *more]


def read(folder: Path) -> tuple[list[dict[str, str]], list[dict[str, Any]], dict[str, Any]]:
    """The table, the examples, and everything."""
    with (folder / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    examples = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
    return table, examples, json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def evaluated(talking: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluated") / "out"
    assert main(words(talking, config, output, "--panels", "1")) == 0
    return output


def test_scores_equal_those_of_answers_one_by_one(talking: Path, config: Path, split: Path, tmp_path: Path) -> None:
    main(words(talking, config, tmp_path / "out", "--splits", "mine", "--batch-size", "1", "--panels", "0"))
    table, examples, _ = read(tmp_path / "out")
    model = load_model(talking, "cpu")
    expected = {}
    for batch in batches(split):
        answer = model.segment(batch.images[0], batch.questions[0])
        truth, mask = batch.original_masks[0].numpy(), answer.mask
        both, either = int((mask & truth).sum()), int((mask | truth).sum())
        expected[batch.keys[0]] = (answer.completion, answer.present, both, either)
    found = {one["key"]: one for one in examples if one["unit"] == "expression"}
    said = {key: (one["completion"], one["present"], one["intersection"], one["union"]) for key, one in found.items()}
    assert said == expected
    assert len({one["completion"] for one in found.values()}) > 5
    assert 0 < sum(one["present"] for one in found.values()) < 42
    firsts = {key[:-2]: value for key, value in expected.items() if key.endswith("/0")}
    targets = {one["key"]: one["iou"] for one in examples if one["unit"] == "target"}
    assert targets == {key: both / either for key, (_, _, both, either) in firsts.items()}
    for row, values in zip(table, (firsts, expected), strict=True):
        assert int(row["n"]) == len(values)
        giou = sum(both / either for _, _, both, either in values.values()) / len(values)
        assert float(row["giou"]) == pytest.approx(giou, abs=5e-7)
        ciou = sum(both for _, _, both, _ in values.values()) / sum(either for _, _, _, either in values.values())
        assert float(row["ciou"]) == pytest.approx(ciou, abs=5e-7)
        assert float(row["giou_low"]) < float(row["giou"]) < float(row["giou_high"])


def test_both_units_of_every_split_with_their_numbers(evaluated: Path, split: Path) -> None:
    table, examples, content = read(evaluated)
    shown = [(row["split"], row["unit"], row["n"], row["original_n"], row["differs"]) for row in table]
    assert shown == [
        ("mine", "target", "14", "", "no"),
        ("mine", "expression", "42", "", "no"),
        ("refcoco/val", "target", "4", "3811", "yes"),
        ("refcoco/val", "expression", "12", "10834", "yes"),
    ]
    assert len(examples) == 14 + 42 + 4 + 12
    assert examples[0]["key"] == "img00000/0"
    assert {"question", "completion", "thought", "well_formed", "truncated", "kind", "iou"} <= set(examples[0])
    assert content["settings"]["decoding"] == "greedy"
    assert content["settings"]["batch_size"] == 4
    digest = hashlib.sha256((split / "index.json").read_bytes()).hexdigest()
    assert content["splits"][0]["indexes"][0]["sha256"] == digest
    assert content["provenance"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert [*content["splits"][0]["units"]["target"]["buckets"]] == []  # all of one kind and one size
    assert {"boundary_iou", "heatmap_pointing", "heatmap_entropy"} <= set(examples[0])
    assert "boundary_iou" in table[0]


def test_the_page_marks_what_is_not_comparable(evaluated: Path) -> None:
    page = (evaluated / "results.md").read_text()
    assert "| refcoco/val | target (first expression) | 4 ≠ |" in page
    assert "≠ refcoco/val, unit expression: 12 examples, the published split has 10,834." in page
    assert "| CoPRS-7B [1] | target | 81.6 |" in page
    assert "1. ReChannel paper, Table 3" in page
    assert "Greedy decoding of at most 6 tokens, in batches of 4." in page


def test_panels_of_best_worst_and_random_answers(evaluated: Path) -> None:
    _, examples, _ = read(evaluated)
    ious = {one["key"]: one["iou"] for one in examples if (one["split"], one["unit"]) == ("mine", "expression")}
    pictures = sorted(path.name for path in (evaluated / "panels" / "mine").iterdir())
    assert [name.split("-")[0] for name in pictures] == ["best", "random", "worst"]
    best = pictures[0].removeprefix("best-01-").removesuffix(".png")
    assert ious[best.replace("-", "/")] == max(ious.values())
    assert Image.open(evaluated / "panels" / "mine" / pictures[0]).width > 1000


def test_a_second_evaluation_gives_the_same_bytes(evaluated: Path, talking: Path, config: Path, tmp_path: Path) -> None:
    main(words(talking, config, tmp_path / "again", "--panels", "0"))
    for name in TABLES:
        assert (tmp_path / "again" / name).read_bytes() == (evaluated / name).read_bytes(), name
    first, second = (read(folder)[2] for folder in (evaluated, tmp_path / "again"))
    assert first["splits"] == second["splits"]
    assert first["checkpoint"] == second["checkpoint"]


def on_two_processes(asked: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "coprs_lightning", *asked, "--devices", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_two_processes_give_the_same_bytes(talking: Path, tmp_path: Path) -> None:
    even = make_split(tmp_path / "even", 4, targets=2, expressions=3, num_shards=2)  # 3 batches of 4 in each shard
    config = write_config(tmp_path / "even.yaml", {"splits": {"even": str(even)}, "batch_size": 4})
    main(words(talking, config, tmp_path / "one", "--panels", "1"))
    done = on_two_processes(words(talking, config, tmp_path / "two", "--panels", "1"))
    assert done.stdout.count("even") == 2  # a table of one process
    for name in TABLES:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
    assert read(tmp_path / "two")[2]["machine"]["processes"] == 2
    drawn, expected = ({path.name: path.read_bytes() for path in (folder / "panels" / "even").iterdir()}
                       for folder in (tmp_path / "two", tmp_path / "one"))  # fmt: skip
    assert drawn == expected


@pytest.mark.slow
def test_two_processes_give_the_same_bytes_whatever_shards_and_workers(
    evaluated: Path, talking: Path, config: Path, tmp_path: Path
) -> None:
    on_two_processes(words(talking, config, tmp_path / "two", "--panels", "0", "--num-workers", "2"))
    for name in TABLES:
        assert (tmp_path / "two" / name).read_bytes() == (evaluated / name).read_bytes(), name


def test_limited_and_one_unit(talking: Path, config: Path, tmp_path: Path) -> None:
    flags = ["--units", "target", "--limit-examples", "5", "--panels", "0", "--splits", "mine"]
    main(words(talking, config, tmp_path / "out", *flags))
    table, examples, _ = read(tmp_path / "out")
    assert [(row["unit"], row["n"], row["split_n"]) for row in table] == [("target", "5", "14")]
    assert [one["unit"] for one in examples] == ["target"] * 5
    assert "mine, unit target: 5 of 14 examples (--limit-examples)" in (tmp_path / "out" / "results.md").read_text()


def test_parquet_instead_of_lines(talking: Path, config: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    output = tmp_path / "out"
    output.mkdir()
    (output / "examples.jsonl").write_text("of an earlier evaluation\n")
    main(words(talking, config, output, "--splits", "mine", "--limit-examples", "3", "--parquet", "--panels", "0"))
    assert parquet.read_table(output / "examples.parquet").num_rows == 3 + 3  # the first expressions of three targets
    assert not (output / "examples.jsonl").exists()


# -- what cannot be read ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken(split: Path) -> Path:
    """``mine`` with one image that is none."""
    folder = shutil.copytree(split, split.parent / "broken")
    shard = folder / "00001.tar"
    shard.write_bytes(shard.read_bytes().replace(b"\x89PNG", b"XXXX", 1))
    return write_config(split.parent / "broken.yaml", {"splits": {"mine": str(folder)}, "batch_size": 4})


def test_an_unusable_sample_is_an_error(
    talking: Path, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(words(talking, broken, tmp_path / "out"), capsys, status=1)
    assert "broken png image" in message
    assert "raise --max-bad-fraction. Nothing was written: no example is dropped unasked." in message
    assert not (tmp_path / "out" / "results.json").exists()


def test_an_unusable_sample_is_counted_and_named_where_it_is_allowed(
    talking: Path, broken: Path, tmp_path: Path
) -> None:
    main(words(talking, broken, tmp_path / "out", "--max-bad-fraction", "0.2", "--panels", "0"))
    table, examples, content = read(tmp_path / "out")
    assert [(row["n"], row["split_n"], row["unusable"]) for row in table] == [("12", "14", "2"), ("36", "42", "6")]
    target, expression = (content["splits"][0]["units"][unit]["unusable_keys"] for unit in ("target", "expression"))
    (image,) = {key.split("/")[0] for key in target}
    assert target == [f"{image}/0", f"{image}/1"]
    assert expression == [f"{image}/{number}/{place}" for number in range(2) for place in range(3)]
    assert image not in {one["image"] for one in examples}
    assert f"mine, unit target: 2 unusable and left out: `{image}/0`" in (tmp_path / "out" / "results.md").read_text()


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_is_evaluated_on_its_own_splits(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    main(words(run, None, None, "--panels", "0"))
    shown = capsys.readouterr()
    assert f"using the best checkpoint of {run}" in shown.err
    table, _, content = read(run / "evaluation")
    assert [(row["split"], row["unit"], row["n"]) for row in table] == [
        *[("val", unit, "2") for unit in ("target", "expression")],
        *[("test", unit, "2") for unit in ("target", "expression")],
    ]
    assert "| val | both: a target has one expression | 2 |" in (run / "evaluation" / "results.md").read_text()
    (checkpoint,) = (run / "checkpoints").glob("step=2*.ckpt")
    assert content["checkpoint"] == {
        "path": str(checkpoint),
        "file": checkpoint.name,
        "kind": "best",
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "global_step": 2,
        "epoch": content["checkpoint"]["epoch"],
    }
    assert content["settings"]["batch_size"] == 4
    assert content["provenance"]["training"]["status"] == "finished"
    main(words(run / "checkpoints" / "last.ckpt", None, tmp_path / "out", "--splits", "test", "--panels", "0"))
    assert read(tmp_path / "out")[0] == table[2:]


@pytest.fixture
def two_steps(trained_run: Path, tmp_path: Path) -> Path:
    """A run with a second checkpoint, of step 1."""
    run = shutil.copytree(trained_run, tmp_path / "run")
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**content, "global_step": 1}, run / "checkpoints" / "step=1-giou=0.0.ckpt")
    return run


def test_a_sweep_evaluates_every_step_once(two_steps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = words(two_steps, None, None, "--sweep", "--splits", "val", "--panels", "0")
    main(asked)
    folder = two_steps / "evaluation" / "sweep"
    assert "2 checkpoints, 0 of them evaluated before" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["step-000001", "step-000002", "sweep.csv", "sweep.png"]
    with (folder / "sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["step"], row["split"], row["unit"]) for row in table] == [
        (step, "val", unit) for step in ("1", "2") for unit in ("target", "expression")
    ]
    alone = read(folder / "step-000002")[0]
    assert [{name: row[name] for name in alone[0]} for row in table[2:]] == alone
    assert Image.open(folder / "sweep.png").width > 600
    times = {path: path.stat().st_mtime_ns for path in folder.glob("step-*/results.json")}
    curve = (folder / "sweep.csv").read_bytes()

    (folder / "step-000001" / "results.json").unlink()  # as if stopped in between
    main(asked)
    assert "2 checkpoints, 1 of them evaluated before" in capsys.readouterr().err
    again = {path: path.stat().st_mtime_ns for path in folder.glob("step-*/results.json")}
    assert {path.parent.name for path in times if again[path] != times[path]} == {"step-000001"}
    assert (folder / "sweep.csv").read_bytes() == curve

    main([*asked, "--batch-size", "2"])
    assert "2 checkpoints, 0 of them evaluated before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--max-bad-fraction", "1"], r"--max-bad-fraction must be in \[0, 1\), got 1.0"),
        (["--accelerator", "abacus"], "--accelerator abacus --devices 1 cannot be used"),
        (["--splits", "train"], "--splits train: .*There are: mine, refcoco/val"),
        (["--sweep", "--checkpoint", "FILE"], "--sweep evaluates every checkpoint of a run, and .* is no folder"),
        (["--output", "FILE"], "is a file. Name a folder"),
    ],
)
def test_mistakes_are_named(
    talking: Path, config: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    given = [str(tmp_path / "file") if flag == "FILE" else flag for flag in flags]
    status = 2 if "--splits" in flags else 1
    text = refused([*words(talking, config, tmp_path / "out"), *given], capsys, status=status)
    assert re.search(message, text), text


def test_an_exported_folder_needs_splits_and_a_place(
    talking: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(words(talking, config, None), capsys, status=1)
    assert f"--output is missing: {talking} is no run" in text
    text = refused(words(talking, None, tmp_path / "out"), capsys, status=1)
    assert "does not tell what data it was trained on" in text
