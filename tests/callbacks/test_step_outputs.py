"""From logits over frames to masks of the original image."""

from __future__ import annotations

import pytest
import torch

from callbacks.step_outputs import original_logits
from datamodules.collate import FrameCollator
from tests.callbacks.tiny import FRAME, example


def test_logits_come_at_the_images_own_size():
    examples = [example(0), example(1)]
    batch = FrameCollator(FRAME)(examples)
    logits = torch.full((2, 1, FRAME // 4, FRAME // 4), -5.0)
    logits[1, 0, 0, 0] = 7.0
    whole = original_logits(logits, batch, 1, FRAME)
    assert whole.shape == examples[1].mask.shape
    assert whole[0, 0] == pytest.approx(7)
    assert original_logits(logits, batch, 0, FRAME).max() == pytest.approx(-5)


def test_padding_of_the_frame_is_cut_off():
    batch = FrameCollator(FRAME)([example(1)])
    height, width = batch.valid_sizes[0].tolist()
    assert min(height, width) < FRAME
    logits = torch.full((1, 1, FRAME, FRAME), 4.0)
    logits[..., :height, :width] = -4.0
    assert original_logits(logits, batch, 0, FRAME).max() == pytest.approx(-4)
