"""The frame geometry: there, back, and which cells are image."""

from __future__ import annotations

import math

import pytest
import torch

from coprs_lightning.geometry import restore, to_frame, valid_mask, valid_size

SIZES = [(480, 640), (640, 480), (333, 500), (1, 1000), (1000, 1), (64, 64), (17, 5), (1, 1), (2000, 1999), (3, 4096)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("frame", [32, 1024])
def test_the_longer_side_fills_the_frame_and_the_ratio_stays(height, width, frame):
    rows, cols = valid_size(height, width, frame)
    assert max(rows, cols) == frame
    assert min(rows, cols) >= 1
    exact = min(height, width) * frame / max(height, width)
    assert abs(min(rows, cols) - max(1, exact)) <= 0.5


def test_half_a_pixel_rounds_up_as_in_sam():
    assert valid_size(3, 8, 4) == (2, 4)  # 1.5 rows


@pytest.mark.parametrize(("height", "width"), [(40, 20), (20, 40), (100, 7), (1, 1000), (1000, 1), (9, 9)])
def test_a_frame_holds_the_image_top_left_and_zeros_elsewhere(height, width):
    image = torch.randint(1, 256, (3, height, width), dtype=torch.uint8)
    frame, (rows, cols) = to_frame(image, 32)
    assert frame.shape == (3, 32, 32)
    assert frame.dtype == torch.uint8
    assert (rows, cols) == valid_size(height, width, 32)
    assert (frame[:, :rows, :cols] > 0).all()
    assert (frame[:, rows:] == 0).all()
    assert (frame[:, :, cols:] == 0).all()


def test_an_image_of_the_frame_size_is_not_touched():
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    assert torch.equal(to_frame(image, 32)[0], image)


def test_a_constant_image_stays_constant_however_it_is_resized():
    for size in [(50, 70), (7, 5)]:
        frame, (rows, cols) = to_frame(torch.full((3, *size), 77, dtype=torch.uint8), 32)
        assert (frame[:, :rows, :cols] == 77).all()


def test_a_shrunk_soft_mask_keeps_its_area():
    mask = torch.zeros(1, 400, 600)
    mask[:, 40:71, 133:400] = 1
    frame, (rows, cols) = to_frame(mask, 64)
    assert frame.dtype == torch.float32
    assert frame.sum() / (rows * cols) == pytest.approx(mask.mean().item(), rel=0.02)
    assert ((frame > 0) & (frame < 1)).any()
    assert frame.min() >= 0
    assert frame.max() <= 1 + 1e-6


def test_nearest_makes_no_new_values():
    labels = torch.randint(0, 5, (1, 50, 30), dtype=torch.uint8) * 50
    frame, _ = to_frame(labels, 32, mode="nearest")
    assert set(frame.unique().tolist()) <= set(labels.unique().tolist()) | {0}


def test_valid_cells_are_the_papers_at_1024():
    sides = torch.cat([torch.arange(1, 1024, 5), torch.tensor([1020, 1021, 1022, 1023, 1024])])
    for sizes in (torch.stack([sides, sides.flip(0)], 1), torch.stack([sides.flip(0), sides], 1)):
        mask = valid_mask(sizes, (256, 256), 1024)
        assert mask.shape == (len(sides), 1, 256, 256)
        assert torch.equal(mask[:, 0].any(2).sum(1), (sizes[:, 0] + 3) // 4)
        assert torch.equal(mask[:, 0].any(1).sum(1), (sizes[:, 1] + 3) // 4)


@pytest.mark.parametrize(("grid", "frame"), [((8, 8), 32), ((5, 7), 32), ((64, 64), 32), ((3, 3), 1024)])
def test_a_cell_is_valid_when_it_touches_the_image(grid, frame):
    for rows, cols in [(1, frame), (frame // 2 + 1, frame), (frame, 1), (frame, frame)]:
        mask = valid_mask(torch.tensor([[rows, cols]]), grid, frame)[0, 0]
        expected = torch.tensor(
            [
                [i * frame / grid[0] < rows and j * frame / grid[1] < cols for j in range(grid[1])]
                for i in range(grid[0])
            ]
        )
        assert torch.equal(mask, expected)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (100, 7), (1, 1000), (1000, 1), (31, 33)])
@pytest.mark.parametrize("grid", [(16, 16), (64, 64)])
def test_restored_logits_have_the_size_of_the_image(height, width, grid):
    logits = torch.randn(2, *grid)
    restored = restore(logits, valid_size(height, width, 64), (height, width), 64)
    assert restored.shape == (2, height, width)
    assert restored.isfinite().all()
    assert restored.abs().max() <= logits.abs().max() + 1e-5  # bilinear: nothing is overshot


def test_half_precision_logits_restore_in_full():
    assert restore(torch.zeros(1, 8, 8, dtype=torch.bfloat16), (32, 16), (20, 10), 32).dtype == torch.float32


@pytest.mark.parametrize(("height", "width"), [(256, 200), (200, 256), (128, 90), (500, 333)])
@pytest.mark.parametrize("box", [(0.1, 0.2, 0.6, 0.7), (0.5, 0.45, 0.97, 0.8)])
def test_a_rectangle_comes_back_within_a_pixel(height, width, box):
    """There at the resolution of the masks (a quarter of the frame), and back."""
    frame = 256
    top, left, bottom, right = (round(share * side) for share, side in zip(box, (height, width) * 2, strict=True))
    mask = torch.zeros(1, height, width)
    mask[:, top:bottom, left:right] = 1
    soft, valid = to_frame(mask, frame)
    coarse = torch.nn.functional.avg_pool2d(soft, 4)
    restored = restore(torch.logit(coarse, eps=1e-4), valid, (height, width), frame)[0] > 0
    rows, cols = restored.any(1).nonzero().flatten(), restored.any(0).nonzero().flatten()
    found = torch.tensor([rows.min(), cols.min(), rows.max() + 1, cols.max() + 1]).float()
    pixel = math.ceil(max(height, width) / frame)  # of the frame, in pixels of the image
    assert (found - torch.tensor([top, left, bottom, right])).abs().max() <= pixel


def test_nothing_of_the_padding_leaks_beyond_one_cell():
    logits = torch.full((1, 16, 16), -50.0)
    logits[:, :8] = 5.0  # the valid half
    restored = restore(logits, (32, 64), (100, 200), 64)
    assert (restored[:, :90] > 0).all()
