"""Boundary IoU against OpenCV's and SciPy's erosion."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from coprs_lightning.metrics import BoundaryIoU, boundary_counts
from coprs_lightning.metrics.boundary import boundary_width, inner_boundary
from tests.metrics.random_examples import random_answer


def eroded_by_opencv(mask, width):
    """A frame of zeros around the image, then 3 × 3 erosions, as the metric's authors describe it."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1].astype(bool)


def oracle(pred, target, ignore, dilation):
    width = max(1, round(dilation * (pred.shape[0] ** 2 + pred.shape[1] ** 2) ** 0.5))
    a, b = (mask & ~eroded_by_opencv(mask, width) for mask in (pred, target))
    counted = np.ones_like(pred) if ignore is None else ~ignore
    return int((a & b & counted).sum()), int(((a | b) & counted).sum())


@pytest.mark.parametrize("dilation", [0.005, 0.02, 0.1])
def test_counts_equal_opencvs(dilation):
    seen = set()
    for seed in range(60):
        answer = random_answer(seed)
        got = boundary_counts(answer.marked, answer.target, answer.ignore, dilation=dilation)
        ignore = None if answer.ignore is None else answer.ignore.numpy()
        assert tuple(int(n) for n in got) == oracle(answer.marked.numpy(), answer.target.numpy(), ignore, dilation)
        seen.add(tuple(int(n) for n in got))
    assert len(seen) > 40


@pytest.mark.parametrize("width", [1, 2, 5, 100])
def test_boundaries_equal_scipys_erosion(width):
    morphology = pytest.importorskip("scipy.ndimage")
    for seed in range(30):
        mask = random_answer(seed).target.numpy()
        inside = morphology.binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=0)
        assert np.array_equal(inner_boundary(torch.from_numpy(mask), width).numpy(), mask & ~inside)


def test_a_boundary_of_one_pixel_equals_scikit_images():
    segmentation = pytest.importorskip("skimage.segmentation")
    for seed in range(30):
        mask = np.pad(random_answer(seed).target.numpy(), 1)  # scikit-image takes the image's edge for no boundary
        expected = segmentation.find_boundaries(mask, connectivity=2, mode="inner")
        assert np.array_equal(inner_boundary(torch.from_numpy(mask), 1).numpy(), expected)


def test_the_mean_equals_the_loop(record_property):
    metric, ious = BoundaryIoU(), []
    for seed in range(40):
        answer = random_answer(seed)
        metric.take(answer)
        ignore = None if answer.ignore is None else answer.ignore.numpy()
        both, either = oracle(answer.marked.numpy(), answer.target.numpy(), ignore, 0.02)
        ious.append(both / either if either else 1.0)
    difference = abs(float(metric.compute()["boundary_iou"]) - np.mean(ious))
    record_property("largest_difference", float(difference))
    assert difference < 1e-15
    assert 1.0 in ious


def test_the_published_width_grows_with_the_image():
    assert [boundary_width(480, 640), boundary_width(128, 128), boundary_width(3, 4)] == [16, 4, 1]


def test_the_outline_counts_and_the_middle_does_not():
    """A disc that is too large by two pixels all around: mask IoU hardly sees it."""
    y, x = torch.meshgrid(torch.arange(400), torch.arange(400), indexing="ij")
    far = ((y - 200) ** 2 + (x - 200) ** 2).sqrt()
    metric = BoundaryIoU()
    metric.update(far < 152, far < 150)
    mask_iou = (far < 150).sum() / (far < 152).sum()
    assert float(mask_iou) > 0.97
    # 11 pixels wide along the axes, 11·√2 along the diagonals: 9 of 13 pixels across are shared, to 13.6 of 17.6
    assert 9 / 13 < float(metric.compute()["boundary_iou"]) < 13.6 / 17.6


def test_empty_masks():
    nothing, full = torch.zeros(5, 7, dtype=torch.bool), torch.ones(5, 7, dtype=torch.bool)
    metric = BoundaryIoU()
    metric.update(nothing, nothing)
    assert float(metric.compute()["boundary_iou"]) == 1
    metric.update(full, nothing)
    assert float(metric.compute()["boundary_iou"]) == 0.5
    metric.update(full, full)  # a mask cut off by the image has a border there
    assert float(metric.compute()["boundary_iou"]) == 2 / 3
    assert int(boundary_counts(full, full)[1]) == 2 * (5 + 7) - 4


@pytest.mark.parametrize("dilation", [0, 1, 16, -0.1])
def test_the_width_is_a_share(dilation):
    with pytest.raises(ValueError, match=rf"BoundaryIoU\.dilation must lie in \(0, 1\), got {dilation}: it is a share"):
        BoundaryIoU(dilation=dilation)


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"pred has size \(2, 8\), target has \(4, 4\)"):
        boundary_counts(torch.zeros(2, 8, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool))
