"""The written files, and the loggers' images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.correlation_files import Correlation, draw, publish, write
from tests.callbacks.tiny import trainer


def example(count: int = 30, **options: object) -> Correlation:
    rng = np.random.default_rng(0)
    x = rng.random(count)
    y = np.clip(0.2 + 0.8 * x + rng.normal(0, 0.1, count), 0, 1)
    keys = [f'example, {n} "$x$" \udc80' for n in range(count)]
    return Correlation(
        name="val-step-000003",
        title="Heatmap and mask",
        columns=("heatmap_iou", "mask_iou"),
        rows={"key": keys},
        x=x.tolist(),
        y=y.tolist(),
        facts={"seen": count + 2, "no_token": 2},
        **options,  # type: ignore[arg-type]
    )


def test_table_and_numbers_hold_what_was_given(tmp_path: Path) -> None:
    given = example()
    write(given, tmp_path / "made")
    with (tmp_path / "made" / "val-step-000003.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["heatmap_iou"]) for row in rows] == given.x
    assert [float(row["mask_iou"]) for row in rows] == given.y
    assert rows[3]["key"] == 'example, 3 "$x$" \\udc80'
    content = json.loads((tmp_path / "made" / "val-step-000003.json").read_text())
    assert content["n"] == 30
    assert content["seen"] == 32
    assert content["r"] == given.fit().r
    assert (content["x"], content["y"]) == ("heatmap_iou", "mask_iou")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        f"val-step-000003.{end}" for end in ("csv", "json", "png")
    ]


def test_the_picture_shows_points_line_and_band(tmp_path: Path) -> None:
    """The band lies about the line, orange on white; the diagonal is there for comparable scores only."""
    pixels = write(example(), tmp_path)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "val-step-000003.png")), pixels)
    (axes,) = draw(example(diagonal=True)).axes
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["y = x", "least squares, 95 % band"]
    (points,) = [found for found in axes.collections if len(found.get_offsets()) == 30]
    assert np.allclose(np.asarray(points.get_offsets())[:, 0], example().x)
    assert "R = 0.9" in axes.get_title()
    (other,) = draw(example()).axes
    assert other.get_legend_handles_labels()[1] == ["least squares, 95 % band"]


def test_points_without_a_line_are_drawn_and_written_without_nan(tmp_path: Path) -> None:
    given = Correlation("same", "t", ("a", "b"), {"key": ["1", "2", "3"]}, [0.5] * 3, [0.1, 0.2, 0.3])
    write(given, tmp_path)
    content = json.loads((tmp_path / "same.json").read_text())
    assert content["r"] is None
    assert content["slope"] is None


class ImageLogger(CSVLogger):
    """A logger with Weights & Biases' method for images."""

    def log_image(self, key, images, step=None, **kwargs):
        self.images = {key: (images, step)}


def test_loggers_that_take_pictures_get_it(tmp_path: Path) -> None:
    board, other = TensorBoardLogger(tmp_path, name="tb"), ImageLogger(tmp_path, name="csv")
    run = trainer(tmp_path, logger=[board, other, CSVLogger(tmp_path, name="plain")])
    publish(example(), tmp_path / "out", run, "val", "heatmap_mask")
    board.finalize("success")
    events = EventAccumulator(board.log_dir)
    events.Reload()
    assert events.Tags()["images"] == ["val/correlation/heatmap_mask"]
    ((picture,), step) = other.images["val/correlation/heatmap_mask"]
    assert picture.ndim == 3
    assert step == 0


def test_a_failure_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match=r"correlation val-step-000003 could not be written .*the run goes on"):
        publish(example(), tmp_path / "out", trainer(tmp_path), "val", "heatmap_mask")
