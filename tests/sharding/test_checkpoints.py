"""Checkpoints of a divided policy: in pieces or in one file, loaded by as many processes or fewer or more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from coprs_lightning.checkpoints.sharded import is_sharded_checkpoint, read_sharded
from coprs_lightning.cli import main
from coprs_lightning.model import CoprsModel
from coprs_lightning.module import CoprsModule, read_checkpoint
from tests.sharding.test_training import distance, worst
from tests.sharding.trained import alone, launch

STEPS, SAVED = 6, 3


class Runs:
    """Uninterrupted runs with a checkpoint in the middle.

    Args:
        folder: for all files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.one = alone(self.case("auto", "file of one"))
        self.two, self.full = launch(
            2, [self.case("fsdp", "pieces of two"), {**self.case("fsdp", "file of two"), "full": True}]
        )

    def case(self, strategy: str, name: str) -> dict[str, Any]:
        """A run that saves under a name."""
        saves = {SAVED: str(self.checkpoint(name)), STEPS: str(self.checkpoint(f"{name}, end"))}
        return {"strategy": strategy, "steps": STEPS, "save_at": saves, "out": self.folder / f"{name}.pt"}

    def checkpoint(self, name: str) -> Path:
        """Where it saves."""
        return self.folder / f"{name}.ckpt"

    def resumed(self, strategy: str, name: str, **more: Any) -> dict[str, Any]:
        """A run that goes on from a checkpoint."""
        case = {"strategy": strategy, "steps": STEPS, "of": STEPS, "skip": SAVED, "load": str(self.checkpoint(name))}
        return {**case, **more, "out": self.folder / f"{name}, resumed by {strategy}.pt"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Made once."""
    return Runs(tmp_path_factory.mktemp("runs"))


def assert_goes_on(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Losses and weights after resuming are those of a run that was never interrupted."""
    loss, weight = worst(found, {**expected, "losses": expected["losses"][SAVED:]})
    assert loss <= 1e-5
    assert weight <= 1e-4


@pytest.mark.slow
def test_two_processes_go_on_from_whatever_was_saved(runs: Runs) -> None:
    names = ["pieces of two", "file of two", "file of one"]
    for found in launch(2, [runs.resumed("fsdp", name) for name in names]):
        assert_goes_on(found, runs.one)


@pytest.mark.slow
def test_the_same_processes_go_on_to_the_bit(runs: Runs) -> None:
    (found,) = launch(2, [runs.resumed("fsdp", "pieces of two")])
    assert distance(found["state"], runs.two["state"]) == 0
    assert found["losses"] == runs.two["losses"][SAVED:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pieces of two", "file of two"])
def test_one_process_goes_on_without_any_strategy(runs: Runs, name: str) -> None:
    assert_goes_on(alone(runs.resumed("auto", name)), runs.one)


@pytest.mark.slow
def test_one_process_goes_on_under_the_same_strategy_and_two_from_its_pieces(runs: Runs) -> None:
    made, found = launch(1, [runs.case("fsdp", "pieces of one"), runs.resumed("fsdp", "pieces of two")])
    assert worst(made, runs.one)[0] <= 1e-5
    assert_goes_on(found, runs.one)
    (found,) = launch(2, [runs.resumed("fsdp", "pieces of one")])
    assert_goes_on(found, runs.one)


@pytest.mark.slow
def test_pieces_hold_the_weights_and_one_file_the_same(runs: Runs) -> None:
    pieces, file = runs.checkpoint("pieces of two, end"), runs.checkpoint("file of two, end")
    assert is_sharded_checkpoint(pieces)
    assert file.is_file()
    assert len(list(pieces.glob("*.distcp"))) == 2
    assert not list(runs.folder.glob(".*"))  # nothing is left of writing
    assert distance(read_sharded(pieces)["state_dict"], runs.two["state"]) == 0
    assert distance(read_checkpoint(file)["state_dict"], runs.full["state"]) == 0
    module = CoprsModule.from_checkpoint(pieces)
    assert distance(module.state_dict(), runs.two["state"]) == 0


@pytest.mark.slow
def test_an_export_of_pieces_is_the_model(runs: Runs, tmp_path: Path) -> None:
    main(["export", "--checkpoint", str(runs.checkpoint("pieces of two, end")), "--output", str(tmp_path / "model")])
    model = CoprsModel.from_pretrained(tmp_path / "model")
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    assert distance(weights, runs.two["state"]) == 0


@pytest.mark.slow
def test_weights_of_another_model_are_refused(runs: Runs) -> None:
    other = {**runs.resumed("fsdp", "pieces of two"), "policy": {"lora": {"rank": 2}}}
    with pytest.raises(AssertionError, match=r"Error\(s\) in loading state_dict[\s\S]*Missing key"):
        launch(2, [other])


def test_optimizer_states_are_numbered_in_the_order_of_their_groups() -> None:
    from coprs_lightning.checkpoints.sharded import named, numbered

    by_name = {
        "state": {"b": {"step": torch.ones(())}, "c": {}},
        "param_groups": [{"lr": 1.0, "params": ["b"]}, {"lr": 2.0, "params": ["c", "a"]}],
    }
    by_number = numbered(by_name)
    assert by_number["param_groups"] == [{"lr": 1.0, "params": [0]}, {"lr": 2.0, "params": [1, 2]}]
    assert list(by_number["state"]) == [0, 1]
    assert named(by_number, ["b", "c", "a"]) == by_name
