"""Thought scores against mask IoU, one point an example."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from callbacks.correlation_thought_score import score_thought
from callbacks.correlation_thoughts import ThoughtMaskCorrelation
from coprs_lightning.geometry import restore
from coprs_lightning.metrics.iou import example_iou
from tests.callbacks.correlating import THOUGHTS, WRITTEN, Partly, Thinking, told
from tests.callbacks.tiny import FRAME, loader, trainer


def test_points_are_score_and_mask_iou(tmp_path: Path) -> None:
    module = Thinking()
    run = trainer(tmp_path, ThoughtMaskCorrelation())
    run.validate(module, told(range(18), 3), verbose=False)
    with (tmp_path / "correlation" / "thought_mask-val-step-000000.csv").open(newline="") as file:
        rows = {row["key"]: (float(row["thought_score"]), float(row["mask_iou"])) for row in csv.DictReader(file)}
    expected = {}
    for batch in told(range(18), 1):
        if batch.reasonings[0] is None:
            continue
        with torch.no_grad():
            logits = module.validation_step(batch, 0).mask_logits
        truth, ignore = batch.original_masks[0], batch.original_ignores[0]
        counted = torch.ones_like(truth) if ignore is None else ~ignore
        pred = restore(logits[0], tuple(batch.valid_sizes[0].tolist()), truth.shape, FRAME)[0] > 0
        iou = example_iou(int((pred & truth & counted).sum()), int(((pred | truth) & counted).sum()))
        score = score_thought(THOUGHTS[int(batch.keys[0][-1]) % 4], WRITTEN)
        assert score is not None
        expected[batch.keys[0]] = (score.value, iou)
    assert rows == expected
    assert {score for score, _ in rows.values()} == {1.0, 0.75, 0.0}
    content = json.loads((tmp_path / "correlation" / "thought_mask-val-step-000000.json").read_text())
    assert (content["seen"], content["no_written_thought"], content["n"]) == (18, 3, 15)
    assert float(run.callback_metrics["val/thought_mask_r"]) == pytest.approx(content["r"])


def test_data_without_written_thoughts_writes_nothing(tmp_path: Path) -> None:
    run = trainer(tmp_path, ThoughtMaskCorrelation())
    run.validate(Partly(), loader(range(9)), verbose=False)
    assert not (tmp_path / "correlation").exists()
    assert "val/thought_mask_r" not in run.callback_metrics
