from __future__ import annotations

import numpy as np
import pytest
import torch

from coprs_lightning.structures import Example
from datamodules.collate import FrameCollator


def example(height, width, **fields):
    mask = np.zeros((height, width), dtype=bool)
    mask[: height // 2] = True
    image = np.full((height, width, 3), 200, dtype=np.uint8)
    return Example(**{"key": f"{height}x{width}", "image": image, "question": "what?", "mask": mask, **fields})


def test_frames_masks_and_originals():
    batch = FrameCollator(16)(
        [example(10, 20, reasoning="so", kind="k"), example(40, 20, ignore=np.ones((40, 20), bool))]
    )
    assert batch.frames.shape == (2, 3, 16, 16)
    assert batch.frames.dtype == torch.uint8
    assert batch.valid_sizes.tolist() == [[8, 16], [16, 8]]
    assert (batch.frames[0, :, :8] == 200).all()
    assert not batch.frames[0, :, 8:].any()
    assert not batch.frames[1, :, :, 8:].any()
    assert batch.masks.shape == (2, 1, 16, 16)
    assert not batch.masks[1, :, :, 8:].any()
    assert [tuple(image.shape) for image in batch.images] == [(3, 10, 20), (3, 40, 20)]
    assert [mask.sum().item() for mask in batch.original_masks] == [100, 400]
    assert batch.original_ignores[0] is None
    assert batch.original_ignores[1].shape == (40, 20)
    assert (batch.keys, batch.reasonings, batch.kinds) == (["10x20", "40x20"], ["so", None], ["k", ""])
    assert batch.features is None


def test_distractors_where_they_are_known():
    assert FrameCollator(16)([example(10, 20)]).distractors is None
    assert FrameCollator(16)([example(10, 20), example(20, 10, distractors=0)]).distractors == [None, 0]


def test_the_border_of_the_mask_is_soft_and_inside_the_range():
    masks = FrameCollator(16)([example(10, 20)]).masks
    assert masks.min() == 0
    assert masks.max() == 1
    assert ((masks > 0) & (masks < 1)).any()


def test_features():
    maps = np.ones((4, 2, 2), np.float16)
    batch = FrameCollator(8)([example(8, 8, features=maps), example(8, 8, features=maps)])
    assert batch.features.shape == (2, 4, 2, 2)
    assert batch.features.dtype == torch.float16
    with pytest.raises(ValueError, match=r"do not fit together in one batch \(without: \['8x9'\]"):
        FrameCollator(8)([example(8, 8, features=maps), example(8, 9)])
    with pytest.raises(ValueError, match="do not fit together"):
        FrameCollator(8)([example(8, 8, features=maps), example(8, 8, features=maps[:2])])


def two_objects(height, width, **fields):
    instances = np.zeros((2, height, width), dtype=bool)
    instances[0, :, : width // 4] = True
    instances[1, :, width // 2 :] = True
    return example(height, width, mask=instances.any(0), instances=instances, **fields)


def test_instances_of_every_example_at_half_the_frame():
    empty = example(16, 16, mask=np.zeros((16, 16), bool))
    batch = FrameCollator(16)([example(10, 20), empty, two_objects(32, 16)])
    assert [tuple(each.shape) for each in batch.instances] == [(1, 8, 8), (0, 8, 8), (2, 8, 8)]
    assert all(each.dtype == torch.float16 for each in batch.instances)
    # the frame of 32 × 16 pixels is 16 × 8: columns 0 and 1 of 8, then 4 to 7; halved 0, then 2 and 3
    columns = batch.instances[2].float().mean(1)
    assert columns[0].tolist() == pytest.approx([1, 0, 0, 0, 0, 0, 0, 0], abs=0.3)
    assert columns[1].tolist() == pytest.approx([0, 0, 1, 1, 0, 0, 0, 0], abs=0.3)
    halved = torch.nn.functional.interpolate(batch.masks, (8, 8), mode="area")
    torch.testing.assert_close(batch.instances[0].float(), halved[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(batch.instances[2].float().sum(0), halved[2, 0], atol=2e-3, rtol=0)
    part = batch.part(1, 3)
    assert [len(each) for each in part.instances] == [0, 2]
    assert part.to("meta").original_instances[1].device.type == "meta"


def test_a_batch_of_single_objects_holds_no_instances():
    assert FrameCollator(16)([example(10, 20), example(20, 10)]).instances is None


def test_bad_size():
    with pytest.raises(ValueError, match="image_size must be ≥ 1"):
        FrameCollator(0)
