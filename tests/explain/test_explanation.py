import numpy as np
import pytest

from coprs_lightning.explain.explanation import mask_iou
from tests.explain.build import reading, square


def test_iou_of_masks():
    assert mask_iou(square(8, 0, 4), square(8, 2, 6)) == pytest.approx(2 / 6)
    empty = np.zeros((8, 8), dtype=bool)
    assert mask_iou(empty, empty) == 1.0


def test_what_the_decoder_changes():
    assert reading().decoder_iou == 1.0
    assert reading(before=square(8, 0, 2)).decoder_iou == pytest.approx(0.5)
