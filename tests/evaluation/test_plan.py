"""Which splits are evaluated: from configs, from runs, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from coprs_lightning.cli_configs import shipped_configs
from coprs_lightning.commands import CommandError, UsageError
from coprs_lightning.evaluation.benchmarks import known_benchmarks
from coprs_lightning.evaluation.plan import check_reader, plan_of_config, plan_of_run
from tests.datamodules.build import make_split
from tests.tiny import write_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits ``one`` (2 images, 2 targets each, 3 expressions each) and ``refcoco`` by the name of a benchmark."""
    made = tmp_path_factory.mktemp("splits")
    make_split(made / "one", 2, targets=2, expressions=3)
    make_split(made / "refcoco", 1, name="refcoco-unc-val")
    return made


def config(folder: Path, tmp_path: Path, **content: object) -> str:
    splits = {"mine": str(folder / "one"), "refcoco/val": {"folder": str(folder / "refcoco")}}
    return str(write_config(tmp_path / "splits.yaml", {"splits": splits, **content}))


def test_a_config_names_folders(folder: Path, tmp_path: Path) -> None:
    both = {
        "splits": {"both": {"folder": [str(folder / "one"), str(folder / "refcoco")], "benchmark": "reasonseg-val"}}
    }
    plan = plan_of_config(config(folder, tmp_path, batch_size=3, num_workers=0))
    assert [split.name for split in plan.splits] == ["mine", "refcoco/val"]
    assert [split.benchmark for split in plan.splits] == [None, "refcoco-unc-val"]
    assert (plan.splits[0].examples("target"), plan.splits[0].examples("expression")) == (4, 12)
    assert (plan.batch_size, plan.num_workers) == (3, 0)
    (joined,) = plan_of_config(str(write_config(tmp_path / "both.yaml", both))).splits
    assert joined.examples("target") == 5
    assert joined.benchmark == "reasonseg-val"
    assert len(set(joined.sha256)) == 2


def test_splits_are_chosen_before_they_are_looked_for(folder: Path, tmp_path: Path) -> None:
    content = {"splits": {"gone": str(folder / "gone"), "mine": str(folder / "one")}}
    path = str(write_config(tmp_path / "gone.yaml", content))
    assert [split.name for split in plan_of_config(path, ["mine"]).splits] == ["mine"]
    with pytest.raises(CommandError, match=r"splits\.gone: .*gone is no folder.*leave it out with --splits"):
        plan_of_config(path)
    with pytest.raises(UsageError, match=r"--splits mien: .*no such split\. Did you mean mine\? There are: gone, mine"):
        plan_of_config(path, ["mien"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "names no splits, so there is nothing to evaluate"),
        ({"splits": {"a": {"benchmark": "x"}}}, r"splits\.a names no folder"),
        ({"splits": {"a": {"folder": "b", "units": 1}}}, r"splits\.a: 'units' is no option here.*folder, benchmark"),
        ({"splits": {"a": "b"}, "batch": 3}, r"'batch' is no option here\. Did you mean batch_size\?"),
        ({"splits": {"mine": "ONE"}, "batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"splits": {"mine": {"folder": "ONE", "benchmark": "refcoco-val"}}}, "Did you mean refcoco-unc-val"),
    ],
)
def test_configs_that_say_something_else(folder: Path, tmp_path: Path, content: dict, message: str) -> None:
    text = yaml.safe_dump(content).replace("ONE", str(folder / "one"))
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        plan_of_config(str(tmp_path / "wrong.yaml"))


def test_a_run_is_evaluated_on_its_own_splits(folder: Path) -> None:
    options = {"train": "x", "val": str(folder / "one"), "test": [str(folder / "refcoco")], "batch_size": 5}
    spec = {"class_path": "datamodules.shard_datamodule.ShardDataModule", "init_args": options}
    plan = plan_of_run(spec, "run.ckpt")
    assert [(split.name, split.benchmark) for split in plan.splits] == [("val", None), ("test", "refcoco-unc-val")]
    assert plan.batch_size == 5
    assert plan.data is spec
    assert [split.name for split in plan.only(["test"]).splits] == ["test"]
    with pytest.raises(UsageError, match=r"--splits train: there is no such split\. There are: val, test"):
        plan.only(["train"])
    check_reader(spec)


def test_runs_without_anything_to_evaluate(folder: Path) -> None:
    with pytest.raises(CommandError, match=r"run\.ckpt does not tell what data .* Name splits with --config"):
        plan_of_run(None, "run.ckpt")
    spec = {"class_path": "x", "init_args": {"train": "x", "val": None}}
    with pytest.raises(CommandError, match="trained without a validation or test split"):
        plan_of_run(spec, "run.ckpt")
    spec["init_args"]["val"] = str(folder / "gone")
    with pytest.raises(CommandError, match=r"data\.init_args\.val of run\.ckpt: .*is no folder.*Nothing was evaluated"):
        plan_of_run(spec, "run.ckpt")


def test_a_reader_that_takes_other_options_is_refused() -> None:
    with pytest.raises(CommandError, match="FrameCollator cannot be evaluated: it does not take test, eval_unit"):
        check_reader({"class_path": "datamodules.collate.FrameCollator", "init_args": {}})


def test_the_shipped_config_names_every_published_split() -> None:
    content = yaml.safe_load((shipped_configs() / "data" / "benchmarks.yaml").read_text())
    named = {Path(folder) for folder in content["splits"].values()}
    # as `coprs data refer` and `coprs data reasonseg` lay them out
    folders = set()
    for benchmark in known_benchmarks():
        source, _, split = benchmark.rpartition("-")
        folders.add(Path("data") / source.replace("-", "_") / split)
    assert named == folders
