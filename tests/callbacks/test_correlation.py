"""Points of training and evaluation against a loop, alone and on two processes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from scipy import stats

from callbacks.correlation import HeatmapMaskCorrelation
from callbacks.correlation_thoughts import ThoughtMaskCorrelation
from coprs_lightning.cli import main
from coprs_lightning.geometry import restore
from coprs_lightning.metrics.iou import example_iou
from tests.callbacks.correlating import Losing, Partly, Thinking, told
from tests.callbacks.tiny import FRAME, TinySegmenter, loader, text_of, trainer
from tests.conftest import REPO


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def looped(module: TinySegmenter, count: int) -> dict[str, tuple[float, float]]:
    """IoU of heatmap and mask of every example that has a token and a target."""
    found = {}
    for batch in loader(range(count), batch_size=1):
        with torch.no_grad():
            output = module.validation_step(batch, 0)
        truth, ignore = batch.original_masks[0], batch.original_ignores[0]
        counted = torch.ones_like(truth) if ignore is None else ~ignore
        if "<REF_POS>" not in output.completions.texts[0] or not (truth & counted).any():
            continue
        ious = []
        for logits in (output.heatmap_logits, output.mask_logits):
            pred = restore(logits[0], tuple(batch.valid_sizes[0].tolist()), truth.shape, FRAME)[0] > 0
            both, either = int((pred & truth & counted).sum()), int(((pred | truth) & counted).sum())
            ious.append(example_iou(both, either))
        found[batch.keys[0]] = (ious[0], ious[1])
    return found


@pytest.fixture
def module() -> TinySegmenter:
    return Partly()


@pytest.mark.parametrize("stage", ["val", "test"])
def test_points_are_the_loops_and_r_is_scipys(module: TinySegmenter, tmp_path: Path, stage: str) -> None:
    run = trainer(tmp_path, HeatmapMaskCorrelation())
    getattr(run, {"val": "validate", "test": "test"}[stage])(module, loader(range(20), 3), verbose=False)
    rows = table(tmp_path / "correlation" / f"{stage}-step-000000.csv")
    expected = looped(module, 20)
    assert {row["key"]: (float(row["heatmap_iou"]), float(row["mask_iou"])) for row in rows} == expected
    assert 8 < len(expected) < 20
    r = stats.pearsonr(*zip(*expected.values(), strict=True)).statistic
    assert float(run.callback_metrics[f"{stage}/heatmap_mask_r"]) == pytest.approx(r, abs=1e-12)
    content = json.loads((tmp_path / "correlation" / f"{stage}-step-000000.json").read_text())
    assert content["n"] == len(expected)
    silent = sum("<REF_POS>" not in text_of(f"{n:03d}") for n in range(20))
    assert (content["seen"], content["no_token"]) == (20, silent)
    assert content["no_token"] + content["no_target"] + content["n"] == 20


def test_more_examples_than_room_are_a_sample(module: TinySegmenter, tmp_path: Path) -> None:
    run = trainer(tmp_path, HeatmapMaskCorrelation(max_points=5))
    run.validate(module, loader(range(20), 3), verbose=False)
    rows = table(tmp_path / "correlation" / "val-step-000000.csv")
    assert len(rows) == 5
    whole = looped(module, 20)
    assert all((float(row["heatmap_iou"]), float(row["mask_iou"])) == whole[row["key"]] for row in rows)


def test_the_same_key_in_two_dataloaders_is_two_examples(module: TinySegmenter, tmp_path: Path) -> None:
    class Twice(Partly):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return super().validation_step(batch, batch_idx)

    run = trainer(tmp_path, HeatmapMaskCorrelation())
    run.validate(Twice(), [loader(range(5)), loader(range(5))], verbose=False)
    keys = [row["key"] for row in table(tmp_path / "correlation" / "val-step-000000.csv")]
    assert len(keys) == len(set(keys)) == 2 * len(looped(module, 5))


def test_few_points_write_nothing_and_neither_do_sanity_check_and_trial_run(module, tmp_path: Path) -> None:
    trainer(tmp_path, HeatmapMaskCorrelation()).validate(module, loader(range(2)), verbose=False)
    for options in ({"fast_dev_run": True}, {"num_sanity_val_steps": -1, "max_steps": 1, "limit_train_batches": 1}):
        given = {"limit_val_batches": 1.0, **options}
        run = trainer(tmp_path, HeatmapMaskCorrelation(), **given)
        run.fit(Losing(), loader(range(2)), loader(range(2)))
    assert not (tmp_path / "correlation").exists()


def test_training_gives_one_point_a_step(tmp_path: Path) -> None:
    module = Losing(silent_every=4)
    run = trainer(tmp_path, HeatmapMaskCorrelation(), max_epochs=2)
    run.fit(module, loader(range(24), 3))
    rows = table(tmp_path / "correlation" / "train.csv")
    assert [int(row["step"]) for row in rows] == [step for step in range(1, 17) if (step - 1) % 8 % 4]
    for row, (_, bce, dice) in zip(rows, module.computed, strict=True):
        assert float(row["one_minus_heatmap_bce"]) == pytest.approx(1 - bce, abs=1e-6)
        assert float(row["one_minus_mask_dice_loss"]) == pytest.approx(1 - dice, abs=1e-6)
    content = json.loads((tmp_path / "correlation" / "train.json").read_text())
    assert (content["n"], content["seen"]) == (12, 16)


def test_completions_without_a_token_do_not_pull_points_towards_one(tmp_path: Path) -> None:
    """Reinforcement's losses are means over all completions, of which some add nothing."""
    module = Losing(without_token=0.75)
    run = trainer(tmp_path, HeatmapMaskCorrelation(), max_epochs=1)
    run.fit(module, loader(range(12), 3))
    rows = table(tmp_path / "correlation" / "train.csv")
    expected = [1 - dice for _, _, dice in module.computed]
    assert [float(row["one_minus_mask_dice_loss"]) for row in rows] == pytest.approx(expected, abs=1e-6)


def test_a_resumed_training_goes_on_with_its_points(tmp_path: Path) -> None:
    def fit(epochs: int, resumed: bool) -> list[dict[str, str]]:
        kept = ModelCheckpoint(tmp_path / "kept", filename="here")
        run = trainer(tmp_path, HeatmapMaskCorrelation(), kept, max_epochs=epochs, enable_checkpointing=True)
        run.fit(Losing(), loader(range(8)), ckpt_path=str(tmp_path / "kept" / "here.ckpt") if resumed else None)
        return table(tmp_path / "correlation" / "train.csv")

    first, both = fit(1, False), fit(3, True)
    assert [row["step"] for row in both] == [str(step) for step in range(1, 13)]
    assert both[:4] == first


def test_the_objectives_losses_are_found(tiny: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(tiny), "--trainer.max_steps", "4"])
    (found,) = (tmp_path / "run").glob("logs/version_0/correlation/train.csv")
    (logged,) = (tmp_path / "run").glob("logs/version_0/metrics.csv")
    losses = {int(row["step"]): row for row in table(logged) if row["train/loss/dice"]}
    rows = table(found)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    for row in rows:
        written = losses[int(row["step"]) - 1]  # Lightning counts from 0
        assert float(row["one_minus_heatmap_bce"]) == pytest.approx(
            1 - float(written["train/loss/heatmap_bce"]), abs=1e-5
        )
        assert float(row["one_minus_mask_dice_loss"]) == pytest.approx(1 - float(written["train/loss/dice"]), abs=1e-5)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"HeatmapMaskCorrelation\.max_points must be ≥ 3, got 2"):
        HeatmapMaskCorrelation(max_points=2)


def test_a_variant_has_to_say_what_it_compares(module: TinySegmenter, tmp_path: Path) -> None:
    from callbacks.correlation import ExampleCorrelation

    with pytest.raises(NotImplementedError, match="ExampleCorrelation has to say which scores"):
        trainer(tmp_path, ExampleCorrelation()).validate(module, loader(range(3)), verbose=False)


@pytest.mark.slow
def test_two_processes_give_what_one_does(tmp_path: Path) -> None:
    """Uneven shares of which two examples come twice; training points are means over both processes' batches."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    words = [*command, "-m", "tests.callbacks.correlating", str(tmp_path)]
    done = subprocess.run(words, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]

    torch.manual_seed(0)
    run = trainer(tmp_path / "alone", HeatmapMaskCorrelation(), ThoughtMaskCorrelation())
    run.test(Thinking(), told(range(13)), verbose=False)
    alone = {name: repr(float(value)) for name, value in run.callback_metrics.items()}
    assert set(alone) == {"test/heatmap_mask_r", "test/thought_mask_r"}
    for rank in range(2):
        assert json.loads((tmp_path / f"test-{rank}.json").read_text()) == alone
    for name in ("test-step-000000.csv", "thought_mask-test-step-000000.csv"):
        together = (tmp_path / "test" / "correlation" / name).read_text()
        assert together == (tmp_path / "alone" / "correlation" / name).read_text()

    first, second = (json.loads((tmp_path / f"fit-{rank}.json").read_text()) for rank in range(2))
    rows = table(tmp_path / "fit" / "correlation" / "train.csv")
    assert len(rows) == len(first) == 8
    for row, (n, bce, dice), (m, other_bce, other_dice) in zip(rows, first, second, strict=True):
        assert (n, m) == (2, 4)
        assert float(row["one_minus_heatmap_bce"]) == pytest.approx(1 - (2 * bce + 4 * other_bce) / 6, abs=1e-6)
        assert float(row["one_minus_mask_dice_loss"]) == pytest.approx(1 - (2 * dice + 4 * other_dice) / 6, abs=1e-6)
