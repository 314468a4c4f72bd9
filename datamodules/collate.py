"""Examples to a batch: loader workers pack one into a single buffer, the main process takes views of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from coprs_lightning.structures import Example, SegmentationBatch
from datamodules.buffers import PrivateBuffers, SharedBuffers

Buffers = PrivateBuffers | SharedBuffers


@dataclass
class PackedBatch:
    """A batch on its way between processes.

    One tensor travels instead of several an example: each would hold a file descriptor of its own, and large batches
    would run into the system's limit.

    Attributes:
        pixels: features, images, masks, ignored pixels and instances as bytes, one after the other.
        image_sizes: (H, W) of every distinct image.
        image_index: for every example, which of the images it asks about.
        ignored: for every example, whether it has pixels to ignore.
        instance_counts: for every example, the number of objects that are listed one by one; 0 where the mask is one
            object, or empty.
        single: every mask is one object.
        feature_shape: (C, h, w) of every example's float16 feature map, or ``None``.
        texts: keys, questions, reasonings and kinds.
        distractors: see :class:`SegmentationBatch`.
        image_size: see :class:`SegmentationBatch`.
        worker: the loader's worker that made it.
        slot: its buffer there, see :mod:`datamodules.buffers`.
    """

    pixels: Tensor
    image_sizes: list[tuple[int, int]]
    image_index: list[int]
    ignored: list[bool]
    instance_counts: list[int]
    single: bool
    feature_shape: tuple[int, ...] | None
    texts: tuple[list[str], list[str], list[str | None], list[str]]
    image_size: int
    distractors: list[int | None] | None = None
    worker: int = 0
    slot: int = -1

    def unpack(self) -> SegmentationBatch:
        """The batch; its tensors are views of :attr:`pixels`."""
        place = 0

        def take(*shape: int) -> Tensor:
            nonlocal place
            count = int(np.prod(shape))
            place += count
            return self.pixels[place - count : place].view(shape)

        maps = None
        if self.feature_shape is not None:
            channels, height, width = self.feature_shape
            maps = take(len(self.image_index), channels, height, 2 * width).view(torch.float16)
        images = [take(height, width, 3).permute(2, 0, 1) for height, width in self.image_sizes]
        masks: list[Tensor] = []
        ignores: list[Tensor | None] = []
        instances: list[Tensor | None] = []
        for index, ignored, count in zip(self.image_index, self.ignored, self.instance_counts, strict=True):
            height, width = self.image_sizes[index]
            masks.append(take(width, height).view(torch.bool).t())
            ignores.append(take(width, height).view(torch.bool).t() if ignored else None)
            instances.append(take(count, height, width).view(torch.bool) if count else None)
        keys, questions, reasonings, kinds = self.texts
        shared = len(images) < len(keys)
        return SegmentationBatch(
            keys=keys,
            images=[images[index] for index in self.image_index],
            questions=questions,
            original_masks=masks,
            original_ignores=ignores,
            reasonings=reasonings,
            kinds=kinds,
            image_size=self.image_size,
            features=maps,
            frame_index=torch.tensor([self.image_index.index(i) for i in self.image_index]) if shared else None,
            original_instances=None if self.single else instances,
            distractors=self.distractors,
        )


class Packer:
    """Makes a :class:`PackedBatch` of examples; runs in the loader's workers.

    Args:
        image_size: side S of the frames in pixels.
    """

    def __init__(self, image_size: int) -> None:
        if image_size < 1:
            raise ValueError(f"image_size must be ≥ 1, got {image_size}.")
        self.image_size = image_size

    def __call__(self, examples: Sequence[Example], buffers: Buffers | None = None) -> PackedBatch:
        """Pack at least one example, into memory of ``buffers``.

        Raises:
            ValueError: some examples have precomputed features and some have none, or their shapes differ.
        """
        # the reader shares an image's pixels between the questions about it
        distinct = {id(example.image): example for example in examples}
        place = {identity: number for number, identity in enumerate(distinct)}
        feature_shape = _feature_shape(examples)
        maps = [example.features for example in examples if example.features is not None]
        parts = [*maps, *(example.image for example in distinct.values())]
        for example in examples:
            parts.append(example.mask.T)  # masks come out of their run lengths column after column
            if example.ignore is not None:
                parts.append(example.ignore.T)
            if example.instances is not None:
                parts.append(example.instances)
        pixels, slot = (buffers or PrivateBuffers()).take(sum(part.nbytes for part in parts))
        np.concatenate([part.reshape(-1).view(np.uint8) for part in parts], out=pixels.numpy())
        worker = get_worker_info()
        return PackedBatch(
            pixels=pixels,
            image_sizes=[(example.image.shape[0], example.image.shape[1]) for example in distinct.values()],
            image_index=[place[id(example.image)] for example in examples],
            ignored=[example.ignore is not None for example in examples],
            instance_counts=[0 if example.instances is None else len(example.instances) for example in examples],
            single=all(example.instances is None and bool(example.mask.any()) for example in examples),
            feature_shape=feature_shape,
            texts=(
                [example.key for example in examples],
                [example.question for example in examples],
                [example.reasoning for example in examples],
                [example.kind for example in examples],
            ),
            image_size=self.image_size,
            distractors=_distractors(examples),
            worker=0 if worker is None else worker.id,
            slot=slot,
        )


class FrameCollator:
    """Makes a :class:`SegmentationBatch` of examples in one process, for instance as a ``DataLoader``'s ``collate_fn``.

    Args:
        image_size: side S of the frames in pixels.
    """

    def __init__(self, image_size: int) -> None:
        self.pack = Packer(image_size)

    def __call__(self, examples: Sequence[Example]) -> SegmentationBatch:
        """Collate at least one example, see :meth:`Packer.__call__`."""
        return self.pack(examples).unpack()


def _distractors(examples: Sequence[Example]) -> list[int | None] | None:
    found = [example.distractors for example in examples]
    return None if all(number is None for number in found) else found


def _feature_shape(examples: Sequence[Example]) -> tuple[int, ...] | None:
    given = [example.features for example in examples if example.features is not None]
    if not given:
        return None
    if len(given) != len(examples) or len({features.shape for features in given}) > 1:
        missing = [example.key for example in examples if example.features is None]
        raise ValueError(
            f"precomputed features do not fit together in one batch (without: {missing}; shapes: "
            f"{sorted({features.shape for features in given})}): read splits together only if all of them have "
            "features of the same backbone."
        )
    return given[0].shape
