"""Rollouts on disk: which steps, which completions, which pictures, and that none can stop a run."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image

from callbacks.drawing import PREDICTION_COLOR
from callbacks.rollout_logger import RolloutLogger
from callbacks.rollout_samples import extremes, groups, table
from coprs_lightning.structures import RolloutRecord
from tests.callbacks.rollouts import REWARDS, Sampler, batches, record
from tests.callbacks.tiny import trainer


def fit(folder, module: pl.LightningModule, *callbacks: pl.Callback, count: int = 8, ckpt_path=None, **options):
    run = trainer(folder, *callbacks, **{"max_epochs": 1, **options})
    run.fit(module, batches(count), ckpt_path=ckpt_path)
    return run


def lines(folder, name="rollouts"):
    text = (folder / name / "completions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def steps(folder, name="rollouts"):
    return list(dict.fromkeys(line["step"] for line in lines(folder, name)))


def quick(**options) -> RolloutLogger:
    return RolloutLogger(**{"prompts": 1, "every_n_steps": 4, **options})


def alone(rewards: list[float]) -> RolloutRecord:
    """A small rollout where only the steps matter: one picture instead of two."""
    return record(1, rewards[:1])


# -- what --------------------------------------------------------------------------------------------------------------


def test_every_completion_of_the_first_prompts_is_a_line(tmp_path):
    fit(tmp_path, Sampler(record()), RolloutLogger(), count=1)
    written = lines(tmp_path)
    assert [line["key"] for line in written] == ["example 0"] * 4 + ["example 1"] * 4
    assert [line["rank"] for line in written] == [3, 1, 4, 2] * 2
    assert written[5] == {
        "step": 1,
        "key": "example 1",
        "question": "the red rectangle rectangle number 1",
        "completion": "<think> the red thing 1 of 1 </think>\nHere is the reference position: <REF_POS>",
        "rank": 1,
        "reward": 2.0,
        "rewards": {"format": 1.0, "mask": 1.0},
        "advantage": 1.1875,
        "length": 8,
        "truncated": False,
        "well_formed": True,
        "has_token": True,
    }
    assert [line["completion"] for line in written] == record().texts[:8]
    silent = written[6]
    assert (silent["truncated"], silent["well_formed"], silent["has_token"]) == (True, False, False)
    assert silent["length"] == 96


def rows(picture: np.ndarray, count: int) -> list[np.ndarray]:
    """The panels of a picture: between prompts is a grey line, within a prompt a panel begins with its bold title."""
    rules = np.flatnonzero((picture == 170).all(axis=(1, 2)))
    parts = np.split(picture, [rules[0], rules[-1] + 1])[::2] if len(rules) else [picture]
    return [half for part in parts for half in np.array_split(part, count // len(parts))]


def tinted(panel: np.ndarray, column: int, color: tuple[int, int, int]) -> float:
    """How many pixels of one of the four pictures have a colour."""
    part = np.array_split(panel, 4, axis=1)[column].astype(int)
    return int((np.abs(part - np.array(color)).max(axis=2) < 12).sum())


def test_the_picture_shows_best_above_worst(tmp_path):
    rollout = record()
    fit(tmp_path, Sampler(rollout), RolloutLogger(), count=1)
    picture = np.asarray(Image.open(tmp_path / "rollouts" / "step=000001.png"))
    best, worst, second_best, second_worst = rows(picture, 4)
    for good, bad in ((best, worst), (second_best, second_worst)):
        assert tinted(good, 2, PREDICTION_COLOR) > 100  # its contour
        assert tinted(bad, 2, PREDICTION_COLOR) == 0  # no token, no mask
        hot = [np.array_split(panel, 4, axis=1)[1].astype(int) for panel in (good, bad)]
        yellow = [((p[..., 0] > 220) & (p[..., 1] > 180) & (p[..., 2] < 200)).sum() for p in hot]
        assert yellow[0] > 1000
        assert yellow[1] == 0
    image = np.array_split(best, 4, axis=1)[0]
    assert (np.abs(image.astype(int) - (230, 30, 30)).max(axis=2) < 12).sum() > 1000  # the red rectangle


def test_the_best_row_is_the_best_rewards_wherever_it_stands(tmp_path):
    for place, folder in enumerate(("first", "second")):
        rewards = [0.1, 0.1]
        rewards[place] = 0.9
        fit(tmp_path / folder, Sampler(record(1, rewards)), quick(), count=1)
    pictures = [
        np.asarray(Image.open(tmp_path / folder / "rollouts" / "step=000001.png")) for folder in ("first", "second")
    ]
    columns = [[np.array_split(row, 4, axis=1)[2][60:-110] for row in rows(picture, 2)] for picture in pictures]
    assert (columns[0][0] == columns[1][1]).mean() > 0.97  # the shifted box above, then below
    assert (columns[0][0] == columns[0][1]).mean() < 0.9


def test_texts_below_the_pictures_name_reward_and_what_is_missing():
    _, best, worst, _ = groups(record(1), 1)[0]
    assert best.notes() == [
        ("Reward", "total 2.000 | format 1.000, mask 1.000 | advantage +1.188"),
        ("Length", "8 tokens"),
    ]
    assert worst.notes()[1] == (
        "Length",
        "96 tokens, cut off by the length limit, no concentration token, so no heatmap and no mask",
    )
    assert [name for name, _ in extremes(groups(record(1), 1)[0])] == ["best of 4", "worst of 4"]


def test_ties_share_a_rank_and_are_shown_as_such():
    tied = groups(record(1, [1.0, 1.0, 1.0]), 1)[0]
    assert [sample.rank for sample in tied] == [1, 1, 1]
    shown = extremes(tied)
    assert [name for name, _ in shown] == ["first of 3 with the same reward", "last of 3 with the same reward"]
    assert [sample.index for _, sample in shown] == [0, 2]
    assert [sample.rank for sample in groups(record(1, [0.0, 2.0, 1.0, 2.0]), 1)[0]] == [4, 1, 3, 1]
    assert [name for name, _ in extremes(groups(record(1, [0.5]), 1)[0])] == ["the only completion"]


def test_a_reward_that_is_not_a_number_is_the_worst(tmp_path):
    rollout = record(1, [math.nan, 1.0, -math.inf])
    fit(tmp_path, Sampler(rollout), quick(), count=1)
    assert [(line["reward"], line["rank"]) for line in lines(tmp_path)] == [(None, 2), (1.0, 1), (None, 2)]


def test_half_precision_and_an_image_to_ignore_are_written(tmp_path):
    rollout = record(1)
    rollout.batch.original_ignores[0] = ~rollout.batch.original_masks[0]
    changes = {
        name: getattr(rollout, name).bfloat16() for name in ("rewards", "advantages", "heatmap_logits", "mask_logits")
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the rollout's")
        fit(tmp_path, Sampler(dataclasses.replace(rollout, **changes)), quick(), count=1)
    assert lines(tmp_path)[1]["reward"] == 2.0
    assert "rollouts/step=000001.png" in files(tmp_path)


def test_odd_texts_stay_one_line_each(tmp_path):
    rollout = record(1)
    odd = ["a\nb\r\n", "lone \udc80 surrogate", "图片 | `x` \u2028", ""]
    rollout.texts[:] = odd
    fit(tmp_path, Sampler(rollout), quick(), count=1)
    assert [line["completion"] for line in lines(tmp_path)] == odd
    assert "rollouts/step=000001.png" in files(tmp_path)


# -- when --------------------------------------------------------------------------------------------------------------


def test_the_first_step_and_every_nth_are_recorded(tmp_path):
    fit(tmp_path, Sampler(alone(REWARDS)), quick(), count=9)
    assert steps(tmp_path) == [1, 4, 8]
    assert files(tmp_path) == [
        "rollouts/completions.jsonl",
        *(f"rollouts/step=00000{step}.png" for step in (1, 4, 8)),
    ]


def test_accumulated_batches_are_one_step(tmp_path):
    fit(tmp_path, Sampler(alone(REWARDS)), quick(every_n_steps=2), count=12, accumulate_grad_batches=3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 4]


def test_batches_of_several_steps_miss_no_record(tmp_path):
    class Manual(Sampler):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            for _ in range(3):
                self.optimizers().step()
            return {"rollout": self.rollout}

    fit(tmp_path, Manual(alone(REWARDS)), quick(every_n_steps=5), count=4)
    assert steps(tmp_path) == [3, 6, 12]  # of 3, 6, 9, 12: the first, and those at which 5 and 10 had passed


def test_training_without_rollouts_leaves_nothing(tmp_path):
    fit(tmp_path, Sampler(None), RolloutLogger(every_n_steps=1))
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_leaves_nothing(tmp_path):
    fit(tmp_path, Sampler(record()), RolloutLogger(every_n_steps=1), fast_dev_run=True)
    assert files(tmp_path) == []


# -- which folder ------------------------------------------------------------------------------------------------------


def test_a_resumed_run_appends_and_a_new_one_does_not_mix(tmp_path):
    keep = ModelCheckpoint(dirpath=tmp_path / "kept", save_last=True)
    fit(tmp_path, Sampler(alone(REWARDS)), quick(), keep, count=5, enable_checkpointing=True)
    path = tmp_path / "rollouts" / "completions.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 5, "ke')  # killed while writing
    fit(tmp_path, Sampler(alone(REWARDS)), quick(), count=5)
    assert steps(tmp_path, "rollouts-2") == [1, 4]
    resumed = {"max_epochs": 2, "ckpt_path": keep.last_model_path}
    fit(tmp_path, Sampler(alone(REWARDS)), quick(), **resumed, count=5)
    written = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in written if line != '{"step": 5, "ke'] == [1, 4, 6, 8]
    assert steps(tmp_path, "rollouts-2") == [1, 4]


def test_a_checkpoint_without_this_callback_goes_on_in_the_newest_folder(tmp_path):
    keep = ModelCheckpoint(dirpath=tmp_path / "kept", save_last=True)
    fit(tmp_path, Sampler(alone(REWARDS)), keep, count=5, enable_checkpointing=True)
    for name in ("rollouts", "rollouts-2"):
        (tmp_path / name).mkdir()
    fit(tmp_path, Sampler(alone(REWARDS)), quick(), max_epochs=2, ckpt_path=keep.last_model_path, count=5)
    assert steps(tmp_path, "rollouts-2") == [6, 8]


# -- loggers -----------------------------------------------------------------------------------------------------------


def test_tensorboard_gets_picture_and_table(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    loggers = [TensorBoardLogger(tmp_path, name="board"), CSVLogger(tmp_path, name="csv")]
    fit(tmp_path, Sampler(alone(REWARDS)), quick(), logger=loggers, count=4)
    board = event_accumulator.EventAccumulator(str(tmp_path / "board" / "version_0"))
    board.Reload()
    assert [event.step for event in board.Images("train/rollouts")] == [1, 4]
    text = board.Tensors("train/rollouts/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "&#60;think&#62;" in text


def test_the_table_takes_no_text_for_markup():
    rollout = record(1)
    rollout.texts[0] = "a | b\n**c** <b>"
    head, rule, first, *_ = table(groups(rollout, 1)[0]).split("\n")
    assert head.split(" | ")[2:6] == ["rank", "reward", "format", "mask"]
    assert len({line.count("|") for line in (head, rule, first)}) == 1
    assert first.endswith("| a &#124; b &#42;&#42;c&#42;&#42; &#60;b&#62; |")
    assert table(groups(rollout, 1)[0]).split("\n")[4].count("truncated, malformed, no token") == 1


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_costs_warnings_only(tmp_path):
    logger = quick(folder="file/rollouts")
    (tmp_path / "file").write_text("a file where the folder should be")
    with pytest.warns(
        UserWarning, match=r"the rollout's completions of step 1 could not be written \(.*Error: .*\); the"
    ):
        run = fit(tmp_path, Sampler(alone(REWARDS)), logger, count=3)
    assert run.global_step == 3


def test_a_picture_that_cannot_be_drawn_loses_neither_text_nor_the_others(tmp_path):
    rollout = record()
    assert len(rollout.batch.valid_sizes) == 3  # made of the true images
    rollout.batch.images[0] = torch.zeros(3, 0, 0, dtype=torch.uint8)
    with pytest.warns(UserWarning, match=r"the rollout's picture of example 0 of step 1 could not be written"):
        fit(tmp_path, Sampler(rollout), RolloutLogger(), count=1)
    assert len(lines(tmp_path)) == 8
    picture = np.asarray(Image.open(tmp_path / "rollouts" / "step=000001.png"))
    assert tinted(rows(picture, 2)[0], 2, PREDICTION_COLOR) > 100


def test_a_record_that_does_not_fit_together_costs_a_warning_only(tmp_path):
    rollout = record(1)
    del rollout.texts[2:]
    with pytest.warns(UserWarning, match=r"the rollout's completions of step 1 could not be written \(IndexError"):
        run = fit(tmp_path, Sampler(rollout), quick(), count=2)
    assert run.global_step == 2
    assert files(tmp_path) == []


def test_something_else_than_a_record_is_refused(tmp_path):
    with pytest.raises(
        TypeError, match=r"training step of Sampler returned a str as 'rollout'.*Return a RolloutRecord"
    ):
        fit(tmp_path, Sampler("text"), RolloutLogger())


@pytest.mark.parametrize("option", ["every_n_steps", "prompts"])
def test_senseless_numbers_are_refused(option):
    with pytest.raises(ValueError, match=f"RolloutLogger.{option} must be ≥ 1, got 0"):
        RolloutLogger(**{option: 0})
