"""Sharded checkpoints are read as plain data, and only whole ones."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from coprs_lightning.checkpoints import find_checkpoint, load_model
from coprs_lightning.checkpoints.io import AnyCheckpointIO
from coprs_lightning.checkpoints.run_folder import read_header, run_checkpoints
from coprs_lightning.checkpoints.sharded import (
    check_whole,
    is_sharded_checkpoint,
    read_index,
    read_rest,
    read_sharded,
)
from coprs_lightning.commands import CommandError
from coprs_lightning.evaluation.checkpoint import checksum
from coprs_lightning.module import read_checkpoint


def shard(source: Path, folder: Path) -> dict[str, Any]:
    """Write a checkpoint as the strategy does, by one process; its content."""
    import torch.distributed.checkpoint as dcp

    content: dict[str, Any] = torch.load(source, weights_only=True)
    rest = dict(content)
    (state,) = rest.pop("optimizer_states")
    weights = rest.pop("state_dict")
    names = {number: f"model.weight{number}" for group in state["param_groups"] for number in group["params"]}
    by_name = {
        "state": {names[number]: values for number, values in state["state"].items()},
        "param_groups": [{**g, "params": [names[number] for number in g["params"]]} for g in state["param_groups"]],
    }
    dcp.save({"state_dict": weights, "optimizer_0": by_name}, checkpoint_id=folder, no_dist=True)
    torch.save(rest, folder / "meta.pt")
    return content


@pytest.fixture
def pieces(trained_run: Path, tmp_path: Path) -> Path:
    """A sharded checkpoint in the folder of a run."""
    folder = tmp_path / "run" / "checkpoints" / "last.ckpt"
    folder.parent.mkdir(parents=True)
    shard(trained_run / "checkpoints" / "last.ckpt", folder)
    return folder


def same(first: Any, second: Any) -> bool:
    """Equal data, tensors in it too."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def test_it_is_the_checkpoint_of_one_file(pieces: Path, trained_run: Path) -> None:
    expected = torch.load(trained_run / "checkpoints" / "last.ckpt", weights_only=True)
    found = AnyCheckpointIO().load_checkpoint(pieces)
    assert same(found["state_dict"], expected["state_dict"])
    assert same(found["optimizer_states"][0], expected["optimizer_states"][0])
    assert same({**found, "optimizer_states": []}, {**expected, "optimizer_states": []})
    assert "optimizer_states" not in read_sharded(pieces)
    assert same(read_checkpoint(pieces)["state_dict"], expected["state_dict"])
    assert read_header(pieces).keys() == expected.keys() - {"state_dict", "optimizer_states"}


def test_other_files_are_read_as_ever(trained_run: Path) -> None:
    file = trained_run / "checkpoints" / "last.ckpt"
    assert AnyCheckpointIO().load_checkpoint(file, weights_only=True)["global_step"] == 2


def test_a_run_of_sharded_checkpoints_is_found_and_loaded(pieces: Path, trained_run: Path) -> None:
    assert find_checkpoint(pieces).path == pieces
    assert find_checkpoint(pieces.parents[1], prefer="last").path == pieces
    assert run_checkpoints(pieces.parents[1]) == [pieces]
    found, expected = (load_model(path, "cpu").state_dict() for path in (pieces, trained_run))
    assert same(dict(found), dict(expected))


def test_the_best_of_a_run_may_be_in_pieces(pieces: Path) -> None:
    rest = torch.load(pieces / "meta.pt", weights_only=True)
    name = next(name for name in rest["callbacks"] if name.startswith("BestAndLast"))
    best = pieces.with_name("best.ckpt")
    shutil.copytree(pieces, best)
    rest["callbacks"][name]["best_model_path"] = f"/moved/since/{best.name}"
    torch.save(rest, pieces / "meta.pt")
    assert find_checkpoint(pieces.parents[1]).path == best


def test_its_checksum_is_that_of_all_pieces(pieces: Path) -> None:
    before = checksum(pieces)
    assert before == checksum(pieces)
    file = next(pieces.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert checksum(pieces) != before


@pytest.mark.parametrize("name", [".metadata", "meta.pt", "__0_0.distcp"])
def test_half_of_one_is_told(pieces: Path, name: str) -> None:
    (pieces / name).unlink()
    if name != "__0_0.distcp":
        assert is_sharded_checkpoint(pieces)
    with pytest.raises(CommandError, match=rf"is not whole: {name} missing or too short.*Take another"):
        check_whole(pieces)


def test_a_piece_that_was_cut_off_is_told(pieces: Path) -> None:
    file = pieces / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CommandError, match=r"is not whole: __0_0.distcp missing or too short"):
        load_model(pieces, "cpu")


class _Harmful:
    def __reduce__(self) -> Any:
        return print, ("this ran",)


def test_an_index_with_code_is_refused_and_nothing_runs(pieces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = read_index(pieces)
    index.planner_data = _Harmful()
    (pieces / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(CommandError, match=r"asks for builtins.print, which no checkpoint needs"):
        read_sharded(pieces)
    assert "this ran" not in capsys.readouterr().out


def test_a_broken_index_is_told(pieces: Path) -> None:
    (pieces / ".metadata").write_bytes(b"\x80\x04")
    with pytest.raises(CommandError, match=r".metadata cannot be read .*damaged"):
        read_index(pieces)


def test_an_index_that_leads_elsewhere_is_refused(pieces: Path) -> None:
    index = read_index(pieces)
    next(iter(index.storage_data.values())).relative_path = "../elsewhere"
    (pieces / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(CommandError, match=r"names a file outside of its folder: \.\./elsewhere"):
        read_index(pieces)


def test_a_value_with_code_is_refused(pieces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save({"state_dict": {"weight": torch.ones(2), "other": _Harmful()}}, checkpoint_id=pieces, no_dist=True)
    with pytest.raises(CommandError, match=r"cannot be loaded \(damaged, or it holds code\): Weights only load failed"):
        read_sharded(pieces)
    assert "this ran" not in capsys.readouterr().out


def test_code_in_the_rest_is_refused(pieces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"callbacks": _Harmful()}, pieces / "meta.pt")
    with pytest.raises(CommandError, match=r"meta.pt cannot be read as part of a checkpoint"):
        read_rest(pieces)
    assert "this ran" not in capsys.readouterr().out
    torch.save([1], pieces / "meta.pt")
    with pytest.raises(CommandError, match=r"meta.pt is no part of a coprs checkpoint"):
        read_rest(pieces)


def test_a_checkpoint_of_another_program_is_told(pieces: Path) -> None:
    torch.save({"epoch": 1}, pieces / "meta.pt")
    with pytest.raises(CommandError, match=r"is no coprs checkpoint"):
        read_header(pieces)
