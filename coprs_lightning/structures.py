"""The plain data that travels between the parts.

Shape legend: B batch, K concentration tokens, T prompt + completion tokens, R completion tokens, D hidden size,
S frame size in pixels, C feature channels, (h, w) feature grid, (H, W) an image's original size.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from coprs_lightning.geometry import to_frame, valid_size


@dataclass
class Example:
    """One image with one question and its mask, before any resizing.

    Attributes:
        key: unique name of the example inside its split.
        image: (H, W, 3) uint8 RGB.
        question: free-form question.
        mask: (H, W) bool, the ground truth.
        ignore: (H, W) bool, pixels that count neither for nor against, or ``None``.
        reasoning: the written chain of thought, or ``None`` when the source has none.
        kind: kind of question (``"attribute"``, ``"position"`` …), ``""`` when unknown.
        features: (C, h, w) float16 precomputed backbone features, or ``None``.
        instances: (n, H, W) bool, the objects whose union is the mask, none of them empty; ``None`` where the mask is
            one object, or empty.
        distractors: other objects of the image that could be taken for the target, or ``None`` when unknown.
    """

    key: str
    image: np.ndarray
    question: str
    mask: np.ndarray
    ignore: np.ndarray | None = None
    reasoning: str | None = None
    kind: str = ""
    features: np.ndarray | None = None
    instances: np.ndarray | None = None
    distractors: int | None = None


@dataclass
class _Movable:
    """Adds ``.to`` to a dataclass of tensors and lists of tensors (Lightning moves batches through it)."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Any:
        """Return a copy whose tensors are on ``device``."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor | _Movable):
                return value.to(device, non_blocking=non_blocking)
            if isinstance(value, list):
                return [move(item) for item in value]
            if isinstance(value, dict):
                return {key: move(item) for key, item in value.items()}
            return value

        return replace(self, **{f.name: move(getattr(self, f.name)) for f in fields(self)})


@dataclass
class SegmentationBatch(_Movable):
    """A collated batch: pixels and masks as they are in the source.

    A *frame* is the square that the backbone sees: the image resized so that its longer side is S, then padded with
    zeros at the bottom and on the right (see :mod:`coprs_lightning.geometry`). Frames, and the ground truth in their
    geometry, are made at their first use on the device that the batch is on: resizing costs a loader's worker several
    times what decoding does, and a GPU next to nothing; a training from precomputed features never asks for frames.

    Attributes:
        keys: B example keys.
        images: B tensors (3, H_i, W_i) uint8, the original pixels; questions about one image may share them.
        questions: B questions.
        original_masks: B tensors (H_i, W_i) bool, the ground truth at original resolution.
        original_ignores: B tensors (H_i, W_i) bool or ``None``.
        reasonings: B written chains of thought or ``None``.
        kinds: B kinds of question.
        image_size: side S of the frames in pixels.
        features: (B, C, h, w) precomputed backbone features, or ``None``.
        frame_index: (B,) int64, for every example the first one of the batch with the same frame, so that features are
            computed once an image; ``None`` where every frame is its own.
        original_instances: B tensors (n_i, H_i, W_i) bool, the objects whose union is the mask, or ``None`` where the
            mask is one object or empty; ``None`` where every mask of the batch is one object.
        distractors: B numbers of objects that could be taken for the target, or ``None`` when unknown; ``None`` where
            all are.
    """

    keys: list[str]
    images: list[Tensor]
    questions: list[str]
    original_masks: list[Tensor]
    original_ignores: list[Tensor | None]
    reasonings: list[str | None]
    kinds: list[str]
    image_size: int
    features: Tensor | None = None
    frame_index: Tensor | None = None
    original_instances: list[Tensor | None] | None = None
    distractors: list[int | None] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def frames(self) -> Tensor:
        """(B, 3, S, S) uint8 RGB frames; the backbone normalises them itself."""
        first = list(range(len(self))) if self.frame_index is None else self.frame_index.tolist()
        made = {place: to_frame(self.images[place], self.image_size)[0] for place in set(first)}
        return torch.stack([made[place] for place in first])

    @cached_property
    def valid_sizes(self) -> Tensor:
        """(B, 2) int64, height and width in pixels of the part of each frame that is image."""
        sizes = [valid_size(int(image.shape[-2]), int(image.shape[-1]), self.image_size) for image in self.images]
        return torch.tensor(sizes, dtype=torch.int64, device=self.images[0].device)

    @cached_property
    def masks(self) -> Tensor:
        """(B, 1, S, S) float32 in [0, 1], the ground truth in frame geometry.

        It is resized antialiased and not thresholded, so that its border is soft.
        """
        soft = [to_frame(mask[None].float(), self.image_size)[0] for mask in self.original_masks]
        return torch.stack(soft).clamp_(0, 1)

    @cached_property
    def instances(self) -> list[Tensor] | None:
        """B tensors (n_i, S / 2, S / 2) float16 in [0, 1], the objects of every example in frame geometry.

        They are soft like :attr:`masks`; n_i is 0 where nothing fits. Half the frame's side is as fine as any mask that
        is predicted, and an eighth of the memory. ``None`` where every mask of the batch is one object.
        """
        if self.original_instances is None:
            return None
        half = max(1, self.image_size // 2)
        found = []
        for place, objects in enumerate(self.original_instances):
            if objects is not None:
                framed = to_frame(objects.float(), self.image_size)[0]
            else:
                framed = self.masks[place, : int(self.original_masks[place].any())]
            smaller = framed.new_zeros(0, half, half)
            if len(framed):
                smaller = F.interpolate(framed[None], (half, half), mode="area")[0]
            found.append(smaller.clamp(0, 1).half())
        return found

    def part(self, start: int, stop: int) -> SegmentationBatch:
        """The examples ``start`` … ``stop - 1`` as a batch; what was made already is not made again."""
        kept = slice(start, stop)
        cut: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "image_size"}
        cut = {name: None if value is None else value[kept] for name, value in cut.items()}
        if self.frame_index is not None:
            frames = self.frame_index[kept].tolist()
            cut["frame_index"] = torch.tensor([frames.index(frame) for frame in frames], device=self.frame_index.device)
        part = SegmentationBatch(**cut, image_size=self.image_size)
        for name in ("frames", "valid_sizes", "masks"):
            if name in self.__dict__:
                part.__dict__[name] = self.__dict__[name][kept]
        return part


@dataclass
class Prompts(_Movable):
    """Tokenised prompts, padded on the left so that every completion starts in the same column.

    Attributes:
        input_ids: (B, P) int64.
        attention_mask: (B, P) bool, ``False`` on padding.
        vision: what the policy's vision tower needs (for Qwen2.5-VL ``pixel_values`` and ``image_grid_thw``).
    """

    input_ids: Tensor
    attention_mask: Tensor
    vision: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Completions(_Movable):
    """Token ids written by the policy (or by a person), padded on the right.

    Attributes:
        ids: (B, R) int64.
        mask: (B, R) bool, ``True`` on real tokens, the end-of-sequence token included.
        texts: B decoded strings, special tokens kept except padding and end of sequence.
        truncated: (B,) bool, ``True`` where the length limit came before the end-of-sequence token.
    """

    ids: Tensor
    mask: Tensor
    texts: list[str]
    truncated: Tensor

    def part(self, start: int, stop: int) -> Completions:
        """The rows ``start`` … ``stop - 1``."""
        kept = slice(start, stop)
        return Completions(self.ids[kept], self.mask[kept], self.texts[kept], self.truncated[kept])


@dataclass
class PolicyOutput(_Movable):
    """Hidden states of prompt + completion after the policy's final norm.

    Attributes:
        hidden: (B, T, D) last-layer hidden states.
        attention_mask: (B, T) bool.
        image_mask: (B, T) bool, ``True`` on image tokens.
        completion_mask: (B, T) bool, ``True`` on completion tokens.
        token_mask: (B, T) bool, ``True`` on concentration tokens *of the completion* (never of the prompt).
        prompt_length: P, so that the completion is ``[:, P:]``.
    """

    hidden: Tensor
    attention_mask: Tensor
    image_mask: Tensor
    completion_mask: Tensor
    token_mask: Tensor
    prompt_length: int


@dataclass
class ConcentrationQuery(_Movable):
    """What the aggregator makes of the completion.

    Attributes:
        query: (B, K, Dq). Rows that are not present hold zeros and must not be used.
        present: (B, K) bool, ``False`` where the completion has no concentration token: there is *no prior*, and
            such rows take no part in a segmentation loss.
        confidence_logits: (B, K) logits that slot k stands for an object; 0 where it is not present. ``None`` where
            the aggregator does not doubt: every slot that is present counts.
    """

    query: Tensor
    present: Tensor
    confidence_logits: Tensor | None = None


@dataclass
class SegmentationOutput(_Movable):
    """Result of one forward pass of :class:`coprs_lightning.model.CoprsModel`.

    Attributes:
        heatmap_logits: (B, K, H', W') logits of the positional prior. ``NO_PRIOR_LOGIT`` where nothing is present.
        mask_logits: (B, K, H'', W'') logits of the mask, likewise.
        present: (B, K) bool, see :class:`ConcentrationQuery`.
        policy: hidden states of the pass.
        completions: the completions that were segmented.
        confidence_logits: (B, K) or ``None``, see :class:`ConcentrationQuery`.
    """

    heatmap_logits: Tensor
    mask_logits: Tensor
    present: Tensor
    policy: PolicyOutput
    completions: Completions
    confidence_logits: Tensor | None = None

    @property
    def chosen(self) -> Tensor:
        """(B, K) bool, the slots that stand for an object: present, and confident where there is a confidence."""
        if self.confidence_logits is None:
            return self.present
        return self.present & (self.confidence_logits > 0)

    def union(self) -> tuple[Tensor, Tensor]:
        """The answer where one mask is asked for: in every pixel the greatest logit of the chosen slots.

        Returns:
            (B, 1, H', W') heatmap logits and (B, 1, H'', W'') mask logits; ``NO_PRIOR_LOGIT`` where no slot is chosen,
            which is an empty mask: nothing fits.
        """
        chosen = self.chosen[..., None, None]
        heatmap, mask = (
            torch.where(chosen, logits, NO_PRIOR_LOGIT).amax(1, keepdim=True)
            for logits in (self.heatmap_logits, self.mask_logits)
        )
        return heatmap, mask


@dataclass
class TokenLogProbs(_Movable):
    """Log-probabilities of completion tokens under the policy's sampling distribution.

    Attributes:
        log_probs: (N, R) float32; 0 on padding.
        entropy: (N, R) float32, entropy in nats of the distribution that each token was drawn from, without gradient
            unless asked for; 0 on padding.
    """

    log_probs: Tensor
    entropy: Tensor


@dataclass
class RolloutRecord(_Movable):
    """One rollout as the logger shows it: B prompts, G completions each.

    Attributes:
        batch: the B examples.
        texts: B·G completions, the G of a prompt beside each other.
        truncated: (B, G) bool.
        well_formed: (B, G) bool, the paper's completion format is kept.
        lengths: (B, G) int64, tokens of each completion.
        rewards: total reward, (B, G).
        reward_parts: (B, G) by name.
        advantages: (B, G).
        present: (B, G) bool, the completion has a concentration token.
        heatmap_logits: (B, G, H', W'), the union over a completion's tokens.
        mask_logits: (B, G, H'', W''), likewise.
        num_tokens: K, concentration tokens that a completion is asked to have.
    """

    batch: SegmentationBatch
    texts: list[str]
    truncated: Tensor
    well_formed: Tensor
    lengths: Tensor
    rewards: Tensor
    reward_parts: dict[str, Tensor]
    advantages: Tensor
    present: Tensor
    heatmap_logits: Tensor
    mask_logits: Tensor
    num_tokens: int = 1


NO_PRIOR_LOGIT = -50.0
"""Logit of "nothing here": sigmoid(-50) is 0 in every precision, and still finite in fp16."""
