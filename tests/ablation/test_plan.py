"""What is run, and what is known again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coprs_lightning.ablation.axes import Cell, Variant
from coprs_lightning.ablation.plan import Plan, check_extra, digest, read_plan
from coprs_lightning.commands import UsageError
from tests.tiny import write_config


def make_plan(output: Path, **more: Any) -> Plan:
    cells = [Cell(), Cell((("head", Variant("film", "film.yaml")),))]
    given: dict[str, Any] = {
        "axes": [], "mode": "grid", "cells": cells, "seeds": [1, 2], "configs": ["base.yaml"], "extra": []
    }  # fmt: skip
    return Plan(output=output, **{**given, **more})


def test_every_cell_and_seed_is_a_command_with_a_folder_of_its_own(tmp_path: Path) -> None:
    runs = make_plan(tmp_path, extra=["--trainer.max_steps", "5"]).runs()
    assert [(run.cell, run.seed) for run in runs] == [("base", 1), ("head=film", 1), ("base", 2), ("head=film", 2)]
    assert len({run.folder for run in runs}) == 4
    last = runs[-1]
    assert last.folder == tmp_path / "cells" / "head=film" / "seed-2"
    assert list(last.words) == [
        *("fit", "--config", "base.yaml", "--config", "film.yaml", "--trainer.max_steps", "5"),
        *("--seed_everything", "2", "--trainer.default_root_dir", str(last.folder)),
    ]
    assert last.command()[1:] == ["-m", "coprs_lightning", *last.words]


def test_the_seed_can_stand_in_an_option(tmp_path: Path) -> None:
    runs = make_plan(tmp_path, extra=["--model.init_from", "runs/start-{seed}"]).runs()
    assert [word for run in runs for word in run.words if "start" in word] == [
        *("runs/start-1", "runs/start-1", "runs/start-2", "runs/start-2")
    ]


def test_a_written_plan_comes_back(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    plan.write()
    assert read_plan(tmp_path) == (["base", "head=film"], plan.runs())


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--report-only: .* holds no ablation \(no ablation.json\)"):
        read_plan(tmp_path)
    (tmp_path / "ablation.json").write_text('{"cells"')
    with pytest.raises(UsageError, match=r"ablation.json cannot be read: JSONDecodeError"):
        read_plan(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed_everything", "3"], r"--seed_everything cannot be given .*: the seeds are those of --seeds"),
        (["--trainer.default_root_dir=x"], r"every run has a folder of its own below --output"),
        (["--ckpt_path", "last"], r"give --model.init_from"),
        (["--callbacks.results.init_args.path", "x"], r"the table is made from what that callback writes"),
        (["--trainer.fast_dev_run", "true"], r"it writes no results"),
        (["film.yaml"], r"'film.yaml' belongs to no option"),
    ],
)
def test_options_that_the_ablation_decides_are_refused(words: list[str], message: str) -> None:
    check_extra(["--trainer.max_steps", "5", "--callbacks.smoke", "null"])
    with pytest.raises(UsageError, match=message):
        check_extra(words)


def test_a_config_that_was_edited_makes_another_run(tmp_path: Path) -> None:
    group = write_config(tmp_path / "group.yaml", {"width": 3})
    base = write_config(tmp_path / "base.yaml", {"model": "group.yaml"})
    words = ["fit", "--config", str(base)]
    first = digest(words)
    base.write_text("# a comment\n" + base.read_text())
    assert digest(words) == first
    write_config(group, {"width": 4})  # a file that the config names
    second = digest(words)
    assert second != first
    write_config(base, {"model": "group.yaml", "seed_everything": 2})
    assert digest(words) not in (first, second)
    assert digest([*words, "--trainer.max_steps", "5"]) != digest(words)


def test_a_folder_that_was_moved_makes_the_same_run() -> None:
    assert digest(["--trainer.default_root_dir", "a"]) == digest(["--trainer.default_root_dir", "b"])
