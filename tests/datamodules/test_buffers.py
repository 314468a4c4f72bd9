from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.buffers import MAX_SLOTS, Lent, PrivateBuffers, SharedBuffers
from tests.datamodules.build import make_split
from tests.datamodules.test_shard_stream import epoch, loader


def test_private_memory_comes_again_when_nobody_looks_at_it():
    buffers = PrivateBuffers()
    first, _ = buffers.take(1000)
    address = first.data_ptr()
    view = first[10:20].view(2, 5).t()
    del first
    second, _ = buffers.take(1000)
    assert second.data_ptr() != address  # there is still a view of the first
    del view
    third, _ = buffers.take(2000)
    assert third.data_ptr() == address
    larger, _ = buffers.take(1 << 23)
    assert len(larger) == 1 << 23


def test_more_private_batches_than_buffers():
    buffers = PrivateBuffers()
    taken = [buffers.take(10)[0].fill_(number) for number in range(MAX_SLOTS + 3)]
    assert len({tensor.data_ptr() for tensor in taken}) == MAX_SLOTS + 3
    assert [int(tensor[5]) for tensor in taken] == list(range(MAX_SLOTS + 3))


def test_shared_slots_are_lent_and_given_back():
    busy = torch.zeros(1, MAX_SLOTS, dtype=torch.uint8).share_memory_()
    buffers, lent = SharedBuffers(busy[0]), Lent(busy)
    slots = [buffers.take(100)[1] for _ in range(MAX_SLOTS)]
    assert slots == list(range(MAX_SLOTS))
    extra, slot = buffers.take(100)
    assert slot == -1
    assert extra.is_shared()
    lent.add(extra, 0, slot)
    pixels = torch.zeros(100, dtype=torch.uint8)  # stands for what arrives in the main process
    view = pixels[3:]
    lent.add(pixels, 0, 2)
    del pixels
    lent.give_back()
    assert busy.all()
    del view
    lent.give_back()
    assert busy[0].tolist() == [1, 1, 0] + [1] * (MAX_SLOTS - 3)
    assert buffers.take(1 << 23)[1] == 2
    assert buffers.take(10)[1] == -1


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_batches_that_are_kept_stay_as_they_are(tmp_path, workers, persistent):
    """Two epochs of batches at once: none is overwritten by a later one."""
    split = make_split(tmp_path / "s", 60, num_shards=4)
    made = loader(split, workers=workers, batch_size=2, persistent_workers=persistent)
    kept, copies = [], []
    for number in range(2):
        made.sampler.set_epoch(number)
        for batch in made:
            kept.append(batch)
            copies.append([image.clone() for image in batch.images] + [mask.clone() for mask in batch.original_masks])
    assert len(kept) == 60
    for batch, copy in zip(kept, copies, strict=True):
        tensors = [*batch.images, *batch.original_masks]
        assert all(torch.equal(tensor, other) for tensor, other in zip(tensors, copy, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_dropped_use_few_buffers(tmp_path, workers):
    split = make_split(tmp_path / "s", 80, num_shards=4)
    made = loader(split, workers=workers, batch_size=1, persistent_workers=True)
    assert len(epoch(made, 0)) == 80
    if workers:
        assert int((made.stream.busy > 0).sum(1).max()) <= 4
    else:
        assert len(made.stream._buffers._slots) <= 3


def test_features_of_questions_about_one_image(tmp_path):
    from datamodules.collate import FrameCollator
    from tests.datamodules.test_collate import example

    image = np.zeros((8, 8, 3), np.uint8)
    maps = [np.full((2, 3, 3), number, np.float16) for number in (1, 1, 2)]
    images = [image, image, image.copy()]
    batch = FrameCollator(8)([example(8, 8, image=i, features=f) for i, f in zip(images, maps, strict=True)])
    assert batch.features.dtype == torch.float16
    assert batch.features[:, 0, 0, 0].tolist() == [1, 1, 2]
    assert batch.frame_index.tolist() == [0, 0, 2]
