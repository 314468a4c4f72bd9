"""One image and one question in front of a model: what no what-if changes is computed once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from coprs_lightning.geometry import restore, valid_mask
from coprs_lightning.images import ImageLike, as_pixels
from coprs_lightning.inference import batch_from_images, check_question, evaluating
from coprs_lightning.model import CoprsModel
from coprs_lightning.structures import NO_PRIOR_LOGIT, Completions, Prompts, SegmentationOutput


@contextmanager
def evaluated(model: CoprsModel) -> Iterator[None]:
    """Eval mode, with gradients where the caller has them on; as before afterwards."""
    enabled = torch.is_grad_enabled()
    with evaluating(model), torch.set_grad_enabled(enabled):
        yield


class View:
    """An image as the model sees it, from a heatmap on.

    Three grids: the *image* (H, W), the *heatmap* (H', W') and the *mask* (H'', W''), the last two over the frame (see
    :mod:`coprs_lightning.geometry`). Every way between them is differentiable.

    Args:
        model: a trained model; it is used in eval mode, and left in the mode it was in.
        image: see :func:`~coprs_lightning.images.as_pixels`.
        question: what to look for; without one there is nothing to think about, and a heatmap has to be given.

    Attributes:
        model: the same.
        batch: the image as a batch of one.
        features: (1, C, h, w) of the backbone, without gradient.
        size: (H, W) of the image.
    """

    def __init__(self, model: CoprsModel, image: ImageLike, question: str = "") -> None:
        pixels = as_pixels(image)
        self.model = model
        self.batch = batch_from_images([pixels], [question], model.image_size).to(model.policy.device)
        with evaluating(model):
            self.features: Tensor = model.features(self.batch)
        self.size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        height, width = self.batch.valid_sizes[0].tolist()
        self.valid = (int(height), int(width))

    @property
    def grid(self) -> tuple[int, int]:
        """(H', W') of the model's own heatmaps."""
        upscale = self.model.heatmap_head.upscale
        return int(self.features.shape[-2]) * upscale, int(self.features.shape[-1]) * upscale

    @cached_property
    def inside(self) -> Tensor:
        """(H', W') bool, cells of the heatmap that touch the image; the others are padding."""
        return valid_mask(self.batch.valid_sizes, self.grid, self.model.image_size)[0, 0]

    def resized(self, values: Tensor) -> Tensor:
        """(n, H, W) values over the image on the heatmap's grid, (n, H', W') float32; padding repeats the border."""
        frame = self.model.image_size
        values = values.to(self.features.device, torch.float32)[None]
        if self.valid != tuple(values.shape[-2:]):
            values = F.interpolate(values, self.valid, mode="bilinear", align_corners=False, antialias=True)
        values = F.pad(values, (0, frame - self.valid[1], 0, frame - self.valid[0]), mode="replicate")
        return F.interpolate(values, self.grid, mode="bilinear", align_corners=False, antialias=True)[0]

    def to_grid(self, logits: Tensor) -> Tensor:
        """(n, H, W) heatmap logits over the image as the model has its own: (n, H', W'), nothing on the padding."""
        return self.resized(logits).masked_fill(~self.inside, NO_PRIOR_LOGIT)

    def to_image(self, logits: Tensor) -> Tensor:
        """(n, h, w) values over the frame at the image's size, (n, H, W) float32."""
        return restore(logits, self.valid, self.size, self.model.image_size)

    def decode(self, heatmap_logits: Tensor) -> Tensor:
        """Masks from heatmaps alone: n heatmaps (n, H', W') → n mask logits (n, H'', W''), with gradient."""
        with evaluated(self.model):
            masks: Tensor = self.model.decoder(
                self.features, heatmap_logits[None].to(self.model.dtype), self.batch.valid_sizes, self.model.image_size
            )
        return masks[0]


class Case(View):
    """An image and a question.

    Args:
        model: see :class:`View`.
        image: see :class:`View`.
        question: what to look for.

    Raises:
        ValueError: for an empty question, or one that the policy cannot encode.
    """

    def __init__(self, model: CoprsModel, image: ImageLike, question: str) -> None:
        check_question(question)
        super().__init__(model, image, question)
        with evaluating(model):
            self.prompts: Prompts = model.policy.encode_prompts(self.batch.images, self.batch.questions)

    def written(self, max_new_tokens: int | None = None) -> Completions:
        """What the model writes, greedily."""
        limit = self.model.max_new_tokens if max_new_tokens is None else max_new_tokens
        with evaluating(self.model):
            return self.model.policy.generate(self.prompts, max_new_tokens=limit)

    def thinking(self, thought: str) -> Completions:
        """A completion with a thought that a person wrote, in the format that the model was taught; ``""`` for none."""
        return self.model.policy.encode_completions([thought])

    def run(self, completions: Completions) -> SegmentationOutput:
        """Segment from one completion or several; with gradients where the caller has them on."""
        with evaluated(self.model):
            output: SegmentationOutput = self.model(self.batch, self.prompts, completions, self.features)
        return output
