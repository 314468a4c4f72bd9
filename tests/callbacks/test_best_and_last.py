"""last.ckpt is the last, whatever its score."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coprs_lightning.cli import main
from tests.tiny import tiny_config, write_config


@pytest.mark.parametrize(("every", "steps"), [(2, 4), (2, 5), (1.0, 8)], ids=["validated", "beyond", "epochs"])
def test_the_last_checkpoint_holds_the_last_step(every: float, steps: int, tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_data, tmp_path / "run")
    by_epochs = {"check_val_every_n_epoch": 1 if isinstance(every, float) else None}
    config["trainer"] |= {"max_steps": steps, "val_check_interval": every, **by_epochs}
    config["data"]["init_args"] |= {"batch_size": 2}
    assert main(["fit", "--config", str(write_config(tmp_path / "config.yaml", config))]) == 0
    files = list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    saved = {path.stem.split("-")[0]: torch.load(path, weights_only=True) for path in files}
    assert saved["last"]["global_step"] == steps
    # all scores are 0, so the best stays the first: Lightning alone would not have renewed last.ckpt
    assert sorted(saved) == ["last", f"step={2 if every == 2 else 4}"]
