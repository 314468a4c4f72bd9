"""Adapters: kept in checkpoints, merged into the weights on export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coprs_lightning.checkpoints import find_checkpoint, load_model
from coprs_lightning.cli import main
from coprs_lightning.model import CoprsModel
from coprs_lightning.module import CoprsModule
from tests.checkpoints.test_folder import masks

pytest.importorskip("peft", reason="adapters need peft")


def test_adapters_are_merged_on_export(tiny: Path, tmp_path: Path) -> None:
    flags = ["--model.policy.lora.rank", "2", "--model.optimizer.learning_rate", "0.05"]
    main(["fit", "--config", str(tiny), *flags])
    run = tmp_path / "run"
    model = load_model(run, "cpu")
    assert model.policy.adapters is not None
    assert not model.policy.adapters.neutral()
    expected = masks(model)
    assert torch.equal(masks(CoprsModule.from_checkpoint(find_checkpoint(run).path).model), expected)
    main(["export", "--checkpoint", str(run), "--output", str(tmp_path / "e")])
    exported = CoprsModel.from_pretrained(tmp_path / "e")
    assert exported.policy.adapters is None
    assert exported.max_new_tokens == 4
    # one product of matrices in place of two: equal but for rounding
    torch.testing.assert_close(masks(exported), expected, atol=1e-4, rtol=1e-4)
    with model.policy.adapters_off():
        assert not torch.allclose(masks(model), expected, atol=1e-4, rtol=1e-4)
