"""Lines in a log file, a bar at a terminal."""

from __future__ import annotations

import io
import re
import sys

import pytest
from lightning.pytorch.callbacks import RichProgressBar

from callbacks.iou import IoUMetrics
from callbacks.progress import CoprsProgressBar, duration
from tests.callbacks.tiny import Clock, TinySegmenter, loader, trainer


def lines(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_training_prints_a_line_every_few_steps(tmp_path, capsys):
    options = {"max_steps": 7, "enable_progress_bar": True, "num_sanity_val_steps": 1, "val_check_interval": 3}
    run = trainer(tmp_path, IoUMetrics(), CoprsProgressBar(every_n_steps=3), check_val_every_n_epoch=None, **options)
    run.fit(TinySegmenter(), loader(range(20)), loader(range(8)))
    printed = lines(capsys)
    step = re.compile(r"step (\d)/7 \| epoch 0 \| loss \d\.\d{4} \| \d+\.\d\d it/s \| (\d+:\d\d) left")
    found = [step.fullmatch(line) for line in printed]
    assert [match[1] for match in found if match] == ["1", "3", "6"]
    validations = [line for line in printed if line.startswith("val at step")]
    assert [line.split()[3] for line in validations] == ["3", "6"]
    score = float(run.callback_metrics["val/giou"])
    assert f" | giou {score:.4g} | ciou " in validations[-1]
    assert " | n 8 | took 0:" in validations[-1]
    assert printed.count("val batch 3/4 | 0:00") == 2
    assert printed[-1].startswith("training ended at step 7 | took 0:")
    assert len(printed) == 3 + 2 * 2 + 1  # no bar, no escape codes, nothing of the sanity check
    assert not any("\x1b" in line for line in printed)


def test_the_rate_leaves_validation_out_and_the_time_left_does_not(tmp_path, capsys, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("callbacks.progress.time", clock)
    options = {"max_steps": 8, "enable_progress_bar": True, "val_check_interval": 4, "check_val_every_n_epoch": None}
    run = trainer(tmp_path, clock, CoprsProgressBar(every_n_steps=5), **options)
    run.fit(TinySegmenter(), loader(range(20)), loader(range(4)))
    printed = [line.split(" | ") for line in lines(capsys)]
    assert [line[3:] for line in printed if line[0] == "step 5/8"] == [["2.00 it/s", "0:14 left"]]  # 22.5 s for 5 steps
    assert [line for line in printed if line[0] == "val at step 4"] == [["val at step 4", "took 0:20"]]
    assert printed[-1] == ["training ended at step 8", "took 0:44"]


def test_accumulated_batches_count_once_and_the_last_line_has_no_time_left(tmp_path, capsys):
    options = {"max_steps": 2, "enable_progress_bar": True, "accumulate_grad_batches": 2}
    trainer(tmp_path, CoprsProgressBar(every_n_steps=1), **options).fit(TinySegmenter(), loader(range(20)))
    printed = lines(capsys)
    assert [line.split()[1] for line in printed[:-1]] == ["1/2", "2/2"]
    assert printed[1].endswith("| 0:00 left")


def test_the_test_prints_its_scores(tmp_path, capsys):
    run = trainer(tmp_path, IoUMetrics(), CoprsProgressBar(every_n_steps=2, shown=("giou",)), enable_progress_bar=True)
    run.test(TinySegmenter(), loader(range(8)), verbose=False)
    printed = lines(capsys)
    assert [line.split(" | ")[0] for line in printed] == ["test batch 2/4", "test batch 4/4", "test at step 0"]
    assert printed[-1].split(" | ")[1] == f"giou {float(run.callback_metrics['test/giou']):.4g}"


def test_zero_redraws_switch_everything_off(tmp_path, capsys):
    trainer(tmp_path, CoprsProgressBar(every_n_steps=1, refresh_rate=0), max_steps=2, enable_progress_bar=True).fit(
        TinySegmenter(), loader(range(4))
    )
    assert lines(capsys) == []


class Terminal(io.StringIO):
    """What Python sees at a terminal."""

    def isatty(self):
        return True


def test_at_a_terminal_the_bar_shows_loss_and_giou(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    progress = CoprsProgressBar(every_n_steps=1)
    options = {"max_epochs": 2, "enable_progress_bar": True}
    run = trainer(tmp_path, IoUMetrics(), progress, **options)
    run.fit(TinySegmenter(), loader(range(4)), loader(range(4)))
    assert run.progress_bar_callback is progress
    assert isinstance(progress, RichProgressBar)
    shown = terminal.getvalue()
    assert "Epoch 1/1" in shown
    assert re.search(r"loss: \d\.\d{3}", shown)
    assert re.search(r"val/giou: \d\.\d{3}", shown)
    assert "it/s |" not in shown
    assert "val at step" not in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3661, "1:01:01"), (90000, "25:00:00"), (-3, "0:00")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_lines_need_a_distance():
    with pytest.raises(ValueError, match=r"CoprsProgressBar.every_n_steps must be ≥ 1, got 0"):
        CoprsProgressBar(every_n_steps=0)
