"""Checkpoints of runs: pieces of several processes are told, and read once they are one file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from coprs_lightning.checkpoints import load_model
from coprs_lightning.checkpoints.run_folder import find_checkpoint, run_checkpoints
from coprs_lightning.commands import CommandError


def shard(trained_run: Path, folder: Path) -> None:
    """Write a checkpoint as Lightning's FSDP strategy does with ``state_dict_type: sharded``."""
    import torch.distributed.checkpoint as dcp

    content = torch.load(trained_run / "checkpoints" / "last.ckpt", weights_only=True)
    dcp.save({"model": content.pop("state_dict")}, checkpoint_id=folder, no_dist=True)
    content.pop("optimizer_states")
    torch.save(content, folder / "meta.pt")


def test_a_sharded_checkpoint_is_told_and_read_once_it_is_one_file(trained_run: Path, tmp_path: Path) -> None:
    from lightning.fabric.utilities.load import _load_distributed_checkpoint
    from lightning.pytorch.utilities.consolidate_checkpoint import _format_checkpoint

    pieces = tmp_path / "run" / "checkpoints" / "last.ckpt"
    pieces.parent.mkdir(parents=True)
    shard(trained_run, pieces)
    for given in (pieces, tmp_path / "run"):
        with pytest.raises(CommandError, match=r"is a sharded checkpoint: .*consolidate_checkpoint .*last.ckpt"):
            load_model(given, "cpu")
    # what the command in the message does
    torch.save(_format_checkpoint(_load_distributed_checkpoint(pieces)), tmp_path / "whole.ckpt")
    whole, expected = load_model(tmp_path / "whole.ckpt", "cpu"), load_model(trained_run, "cpu")
    assert all(torch.equal(v, expected.state_dict()[k]) for k, v in whole.state_dict().items())


def test_deepspeeds_pieces_are_told(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt" / "checkpoint").mkdir(parents=True)
    (tmp_path / "last.ckpt" / "zero_to_fp32.py").write_text("")
    with pytest.raises(CommandError, match=r"is a sharded checkpoint: .*convert_zero_checkpoint_to_fp32_state_dict"):
        find_checkpoint(tmp_path / "last.ckpt")


def test_a_device_that_is_not_there_is_told(trained_run: Path) -> None:
    with pytest.raises(CommandError, match="--device rocket: "):
        load_model(trained_run, "rocket")


def test_all_checkpoints_of_the_newest_attempt(tmp_path: Path) -> None:
    for attempt, age in (("checkpoints", 1), ("checkpoints-2", 2)):
        for name in ("step=1.ckpt", "last.ckpt"):
            file = tmp_path / attempt / name
            file.parent.mkdir(exist_ok=True)
            file.touch()
            os.utime(file, (age, age))
    newest = tmp_path / "checkpoints-2"
    assert run_checkpoints(tmp_path) == [newest / "last.ckpt", newest / "step=1.ckpt"]
    assert run_checkpoints(newest / "step=1.ckpt") == [newest / "step=1.ckpt"]
    with pytest.raises(CommandError, match="there is no checkpoint"):
        run_checkpoints(tmp_path / "gone")
