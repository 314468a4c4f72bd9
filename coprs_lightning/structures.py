"""The plain data that travels between the parts.

Shape legend: B batch, K concentration tokens, T prompt + completion tokens, R completion tokens, D hidden size,
S frame size in pixels, C feature channels, (h, w) feature grid, (H, W) an image's original size.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


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
    """A collated batch.

    A *frame* is the square that the backbone sees: the image resized so that its longer side is S, then padded with
    zeros at the bottom and on the right (see :mod:`coprs_lightning.geometry`).

    Attributes:
        keys: B example keys.
        images: B tensors (3, H_i, W_i) uint8, the original pixels (for the policy and for panels).
        frames: (B, 3, S, S) uint8 RGB frames; the backbone normalises them itself.
        valid_sizes: (B, 2) int64, height and width in pixels of the part of each frame that is image.
        questions: B questions.
        masks: (B, 1, S, S) float32 in [0, 1], the ground truth in frame geometry: resized antialiased and not
            thresholded, so that its border is soft.
        original_masks: B tensors (H_i, W_i) bool, the ground truth at original resolution.
        original_ignores: B tensors (H_i, W_i) bool or ``None``.
        reasonings: B written chains of thought or ``None``.
        kinds: B kinds of question.
        features: (B, C, h, w) precomputed backbone features, or ``None``.
        frame_index: (B,) int64, for every example the first one of the batch with the same frame, so that features are
            computed once an image; ``None`` where every frame is its own.
        instances: B tensors (n_i, S / 2, S / 2) float16 in [0, 1], the objects of every example in frame geometry, soft
            like ``masks``; n_i is 0 where nothing fits. Half the frame's side is as fine as any mask that is predicted,
            and an eighth of the memory. ``None`` where every mask of the batch is one object.
    """

    keys: list[str]
    images: list[Tensor]
    frames: Tensor
    valid_sizes: Tensor
    questions: list[str]
    masks: Tensor
    original_masks: list[Tensor]
    original_ignores: list[Tensor | None]
    reasonings: list[str | None]
    kinds: list[str]
    features: Tensor | None = None
    frame_index: Tensor | None = None
    instances: list[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, start: int, stop: int) -> SegmentationBatch:
        """The examples ``start`` … ``stop - 1`` as a batch."""
        kept = slice(start, stop)
        index = None
        if self.frame_index is not None:
            frames = self.frame_index[kept].tolist()
            index = torch.tensor([frames.index(frame) for frame in frames], device=self.frame_index.device)
        cut: dict[str, Any] = {
            f.name: None if getattr(self, f.name) is None else getattr(self, f.name)[kept] for f in fields(self)
        }
        return SegmentationBatch(**{**cut, "frame_index": index})


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
