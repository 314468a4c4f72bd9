"""Which panels are drawn, where they go, and that none can stop a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image

from callbacks.heatmap_panels import HeatmapPanels, _answer
from callbacks.iou import IoUMetrics
from tests.callbacks.tiny import TinySegmenter, loader, trainer


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


def trained():
    torch.manual_seed(1)
    return TinySegmenter()


def test_the_first_examples_of_every_validation_are_drawn(tmp_path):
    run = trainer(tmp_path, HeatmapPanels(num_examples=3), max_epochs=2, num_sanity_val_steps=2)
    run.fit(TinySegmenter(), loader(range(4)), loader(range(7)))
    files = [f"{i:02d}-split_00{i}.png" for i in range(3)]
    steps = ("val-step-000002", "val-step-000004")
    assert names(tmp_path / "panels") == [f"{step}/{file}" for step in steps for file in files]
    picture = np.asarray(Image.open(tmp_path / "panels" / steps[0] / files[0]))
    assert picture.std() > 20


def test_epochs_can_be_left_out_in_fit_alone(tmp_path):
    panels = HeatmapPanels(num_examples=1, every_n_epochs=2, folder="pictures")
    run = trainer(tmp_path, panels, max_epochs=4)
    run.fit(TinySegmenter(), loader(range(2)), loader(range(2)))
    assert [name.split("/")[0] for name in names(tmp_path / "pictures")] == ["val-step-000001", "val-step-000003"]
    run.test(TinySegmenter(), loader(range(2)), verbose=False)
    assert "test-step-000004/00-split_000.png" in names(tmp_path / "pictures")


def test_the_worst_examples_are_those_with_the_lowest_iou(tmp_path):
    module = trained()
    iou = {}
    for index in range(9):
        alone = trainer(tmp_path, IoUMetrics())
        alone.validate(module, loader(range(index, index + 1)), verbose=False)
        iou[f"split_{index:03d}"] = float(alone.callback_metrics["val/giou"])
    run = trainer(tmp_path, HeatmapPanels(num_examples=0, num_worst=3))
    run.validate(module, loader(range(9)), verbose=False)
    drawn = [name.split("/")[1].removesuffix(".png").split("-")[2] for name in names(tmp_path / "panels")]
    assert len(drawn) == 3
    assert [iou[key] for key in drawn] == sorted(iou.values())[:3]


def test_panels_lie_in_the_loggers_folder_and_in_tensorboard(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    loggers = [TensorBoardLogger(tmp_path, name="board"), CSVLogger(tmp_path, name="csv")]
    run = trainer(tmp_path, HeatmapPanels(num_examples=2), logger=loggers)
    run.validate(TinySegmenter(), loader(range(3)), verbose=False)
    for logger in loggers:
        logger.finalize("success")
    folder = tmp_path / "board" / "version_0"
    assert len(names(folder / "panels" / "val-step-000000")) == 2
    board = event_accumulator.EventAccumulator(str(folder))
    board.Reload()
    assert sorted(board.Tags()["images"]) == ["val/panels/00", "val/panels/01"]


def test_a_panel_that_cannot_be_written_costs_a_warning_only(tmp_path):
    (tmp_path / "panels").write_text("a file where the folder should be")
    run = trainer(tmp_path, HeatmapPanels(num_examples=2), IoUMetrics())
    with pytest.warns(UserWarning, match=r"the panel of split/000 was not drawn \(.*Error: .*\); the run goes on"):
        run.validate(TinySegmenter(), loader(range(3)), verbose=False)
    assert float(run.callback_metrics["val/n"]) == 3


def test_a_dry_run_draws_nothing(tmp_path):
    trainer(tmp_path, HeatmapPanels(), fast_dev_run=True).fit(TinySegmenter(), loader(range(2)), loader(range(2)))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_examples": -1}, "num_examples must be ≥ 0, got -1"),
        ({"num_worst": -2}, "num_worst must be ≥ 0, got -2"),
        ({"every_n_epochs": 0}, "every_n_epochs must be ≥ 1, got 0"),
    ],
)
def test_senseless_numbers_are_refused(option, message):
    with pytest.raises(ValueError, match=f"HeatmapPanels.{message}"):
        HeatmapPanels(**option)


def test_a_panel_shows_the_union_of_the_slots_that_stand_for_an_object():
    batch = next(iter(loader(range(1))))
    single = TinySegmenter().validation_step(batch, 0)
    masks = torch.full((1, 3, 16, 16), -4.0)
    masks[0, 0, :4], masks[0, 1, 8:], masks[0, 2, :, :4] = 4.0, 4.0, 4.0
    several = replace(
        single,
        heatmap_logits=masks,
        mask_logits=masks,
        present=torch.tensor([[True, True, True]]),
        confidence_logits=torch.tensor([[1.0, -1.0, 2.0]]),
    )
    united = replace(
        single,
        heatmap_logits=masks[:, [0, 2]].amax(1, keepdim=True),
        mask_logits=masks[:, [0, 2]].amax(1, keepdim=True),
    )
    shown, expected = _answer(several, batch, 0, 16), _answer(united, batch, 0, 16)
    np.testing.assert_array_equal(shown.mask, expected.mask)
    np.testing.assert_array_equal(shown.heatmap, expected.heatmap)
    assert 0 < shown.mask.mean() < 1
    assert (shown.num_tokens, expected.num_tokens) == (3, 1)
    nothing = replace(several, confidence_logits=torch.full((1, 3), -1.0))
    assert not _answer(nothing, batch, 0, 16).mask.any()
