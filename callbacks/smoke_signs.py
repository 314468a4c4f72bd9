"""What can be seen of a run that does not work: plain counts over its first examples."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from coprs_lightning.prompts import parse_completion
from coprs_lightning.structures import SegmentationBatch, SegmentationOutput

_FLAT = 1e-4
"""Logits that differ by less over the whole picture say the same everywhere."""


@dataclass
class Signs:
    """Counts over examples (B) and completions (B·G of them).

    Attributes:
        examples: B, summed over batches.
        answers: completions.
        constant_frames: frames of one colour.
        empty_targets: examples without a target pixel.
        full_targets: examples whose target is (almost) the whole image.
        spoiled: completions with logits that are not finite.
        with_token: completions with a concentration token.
        well_formed: completions that keep the format.
        truncated: completions cut by the length limit.
        blank: completions without a word.
        begun: completions that begin a thought.
        flat_heatmaps: completions with a token whose heatmap is the same everywhere.
        flat_masks: likewise the mask.
        empty_masks: completions with a token whose mask is empty.
        full_masks: completions with a token whose mask is everything.
        doubted: completions with a token that no slot is confident of.
        compared: pairs of questions about one image.
        alike: such pairs with the same heatmap.
        pixel_mean: mean of the normalised pixels of the first batch; NaN where they are not known.
        pixel_std: their standard deviation, of the colour channels' the mean.
        feature_std: largest standard deviation over places of any feature channel; NaN where features are not known.
        texts: the first completions, for the message.
    """

    examples: int = 0
    answers: int = 0
    constant_frames: int = 0
    empty_targets: int = 0
    full_targets: int = 0
    spoiled: int = 0
    with_token: int = 0
    well_formed: int = 0
    truncated: int = 0
    blank: int = 0
    begun: int = 0
    flat_heatmaps: int = 0
    flat_masks: int = 0
    empty_masks: int = 0
    full_masks: int = 0
    doubted: int = 0
    compared: int = 0
    alike: int = 0
    pixel_mean: float = math.nan
    pixel_std: float = math.nan
    feature_std: float = math.nan
    texts: list[str] = field(default_factory=list)

    @torch.no_grad()
    def observe(self, batch: SegmentationBatch, output: SegmentationOutput, model: Any = None) -> None:
        """Add a batch and its B or B·G answers.

        Args:
            batch: B examples.
            output: their answers.
            model: a :class:`~coprs_lightning.model.CoprsModel`, whose backbone says how pixels are normalised.
        """
        self._observe_data(batch)
        self._observe_pixels(batch, getattr(model, "backbone", None))
        self._observe_answers(output)
        self._compare(batch, output)

    def see_features(self, features: Tensor) -> None:
        """Look at (B, C, h, w) features of a backbone."""
        if features.ndim == 4 and features.shape[-1] * features.shape[-2] > 1:
            spread = float(features.detach().float().flatten(2).std(2).amax())
            self.feature_std = spread if math.isnan(self.feature_std) else max(self.feature_std, spread)

    def _observe_data(self, batch: SegmentationBatch) -> None:
        self.examples += len(batch)
        for image in batch.images:
            self.constant_frames += int(bool((image.amax((1, 2)) == image.amin((1, 2))).all()))
        for truth, ignore in zip(batch.original_masks, batch.original_ignores, strict=True):
            counted = truth if ignore is None else truth & ~ignore
            self.empty_targets += int(not bool(counted.any()))
            self.full_targets += int(float(truth.float().mean()) > 0.97)

    def _observe_pixels(self, batch: SegmentationBatch, backbone: Any) -> None:
        if batch.features is not None:
            self.see_features(batch.features)
        elif math.isnan(self.pixel_std) and hasattr(backbone, "normalised"):
            heights, widths = batch.valid_sizes.unbind(1)
            pixels = backbone.normalised(batch.frames, batch.valid_sizes).float()
            inside = [p[:, :h, :w].flatten(1) for p, h, w in zip(pixels, heights, widths, strict=True)]
            values = torch.cat(inside, 1)
            self.pixel_mean, self.pixel_std = float(values.mean()), float(values.std(1).mean())

    def _observe_answers(self, output: SegmentationOutput) -> None:
        slots = output.present.shape[1]
        texts, present = output.completions.texts, output.present.any(1)
        self.answers += len(texts)
        self.with_token += int(present.sum())
        self.truncated += int(output.completions.truncated.sum())
        self.well_formed += sum(parse_completion(text, slots).well_formed for text in texts)
        self.blank += sum(not text.strip() for text in texts)
        self.begun += sum("<think>" in text for text in texts)
        self.texts += texts[: max(0, 3 - len(self.texts))]
        if not bool(present.any()):
            return
        heatmaps, masks = output.heatmap_logits[present].float(), output.mask_logits[present].float()
        union = output.union()[1][present].float()
        here = output.present[present][..., None, None]
        finite = heatmaps.isfinite().flatten(1).all(1) & masks.isfinite().flatten(1).all(1)
        self.spoiled += int((~finite).sum())
        self.flat_heatmaps += int((_flat(heatmaps, here) & finite).sum())
        self.flat_masks += int((_flat(masks, here) & finite).sum())
        confident = output.chosen[present].any(1)
        self.doubted += int((~confident).sum())
        self.empty_masks += int(((union <= 0).flatten(1).all(1) & finite & confident).sum())
        self.full_masks += int(((union > 0).flatten(1).all(1) & finite & confident).sum())

    def _compare(self, batch: SegmentationBatch, output: SegmentationOutput) -> None:
        """Whether the heatmap depends on the question (of a group's completions, the first is looked at)."""
        if batch.frame_index is None:
            return
        group = max(1, len(output.present) // len(batch))
        for row, first in enumerate(batch.frame_index.tolist()):
            pair = [row * group, first * group]
            if batch.questions[row] != batch.questions[first] and bool(output.present[pair, 0].all()):
                heatmaps = output.heatmap_logits[pair, 0].float()
                self.compared += 1
                self.alike += int(bool((heatmaps[0] - heatmaps[1]).abs().amax() < _FLAT))


def _flat(logits: Tensor, present: Tensor) -> Tensor:
    """(N, K, h, w) logits, (N, K, 1, 1) which count → (N,) whether all that count are constant over places."""
    spread = logits.flatten(2).amax(2) - logits.flatten(2).amin(2)
    return ((spread < _FLAT) | ~present[..., 0, 0]).all(1)
