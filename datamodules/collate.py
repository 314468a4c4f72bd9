"""Examples to a batch: everything goes through the one frame geometry of :mod:`coprs_lightning.geometry`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from coprs_lightning.geometry import to_frame
from coprs_lightning.structures import Example, SegmentationBatch


class FrameCollator:
    """Makes a :class:`SegmentationBatch` of examples; runs in the loader's workers.

    Args:
        image_size: side S of the frame in pixels.
    """

    def __init__(self, image_size: int) -> None:
        if image_size < 1:
            raise ValueError(f"image_size must be ≥ 1, got {image_size}.")
        self.image_size = image_size

    def __call__(self, examples: list[Example]) -> SegmentationBatch:
        """Collate at least one example.

        Raises:
            ValueError: some examples have precomputed features and some have none, or their shapes differ.
        """
        first = _first_with_same_image(examples)
        unique = {i: torch.from_numpy(examples[i].image).permute(2, 0, 1).contiguous() for i in set(first)}
        images = [unique[i] for i in first]
        unique_frames = {i: to_frame(image, self.image_size) for i, image in unique.items()}
        framed = [unique_frames[i] for i in first]
        masks = [torch.from_numpy(example.mask) for example in examples]
        soft = [to_frame(mask[None].float(), self.image_size)[0] for mask in masks]
        return SegmentationBatch(
            keys=[example.key for example in examples],
            images=images,
            frames=torch.stack([frame for frame, _ in framed]),
            valid_sizes=torch.tensor([valid for _, valid in framed], dtype=torch.int64),
            questions=[example.question for example in examples],
            masks=torch.stack(soft).clamp_(0, 1),
            original_masks=masks,
            original_ignores=[None if e.ignore is None else torch.from_numpy(e.ignore) for e in examples],
            reasonings=[example.reasoning for example in examples],
            kinds=[example.kind for example in examples],
            features=_stack_features(examples),
            frame_index=torch.tensor(first) if len(unique) < len(examples) else None,
            instances=self._instances(examples, soft),
        )

    def _instances(self, examples: list[Example], soft: list[Tensor]) -> list[Tensor] | None:
        """Objects of every example, see :class:`SegmentationBatch`."""
        if all(example.instances is None and example.mask.any() for example in examples):
            return None
        half = max(1, self.image_size // 2)
        found = []
        for example, mask in zip(examples, soft, strict=True):
            if example.instances is not None:
                framed = to_frame(torch.from_numpy(example.instances).float(), self.image_size)[0]
            else:
                framed = mask[: int(example.mask.any())]
            smaller = framed.new_zeros(0, half, half)
            if len(framed):
                smaller = F.interpolate(framed[None], (half, half), mode="area")[0]
            found.append(smaller.clamp(0, 1).half())
        return found


def _first_with_same_image(examples: list[Example]) -> list[int]:
    """For every example the first one that holds the very same pixels (the reader shares them between questions)."""
    seen: dict[int, int] = {}
    return [seen.setdefault(id(example.image), i) for i, example in enumerate(examples)]


def _stack_features(examples: list[Example]) -> Tensor | None:
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
    return torch.from_numpy(np.stack(given))
