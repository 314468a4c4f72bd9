"""What a step of reinforcement works on: a rollout, cut into pieces that fit into memory, and its scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from coprs_lightning.model import CoprsModel
from coprs_lightning.prompts import parse_completion
from coprs_lightning.rl.rewards import RewardInputs
from coprs_lightning.structures import (
    Completions,
    Prompts,
    RolloutRecord,
    SegmentationBatch,
    SegmentationOutput,
    TokenLogProbs,
)


@dataclass
class Piece:
    """Completions that go through the model together, and what belongs to them.

    Attributes:
        rows: which of all B·G completions they are.
        batch: their examples.
        prompts: one an example.
        completions: as many an example, beside each other.
        features: of the backbone, where it is frozen; else ``None``, so that gradients reach it.
    """

    rows: slice
    batch: SegmentationBatch
    prompts: Prompts
    completions: Completions
    features: Tensor | None


@dataclass
class Pass:
    """A piece's way through the model."""

    output: SegmentationOutput
    tokens: TokenLogProbs


@dataclass
class Seen:
    """What scoring keeps of a pass: gradients cut, hidden states left behind (they are most of its memory).

    Attributes:
        heatmap_logits: (n, H', W'), the union over a completion's tokens.
        mask_logits: (n, H'', W''), likewise.
        present: (n,) bool, the completion has a concentration token.
        log_probs: (n, R).
    """

    heatmap_logits: Tensor
    mask_logits: Tensor
    present: Tensor
    log_probs: Tensor

    @classmethod
    def of(cls, current: Pass) -> Seen:
        """Cut what is needed out of a pass."""
        output = current.output
        heatmap, mask = output.union()
        return cls(
            heatmap[:, 0].detach().float(),
            mask[:, 0].detach().float(),
            output.present.any(1),
            current.tokens.log_probs.detach(),
        )

    @classmethod
    def joined(cls, pieces: list[Seen]) -> Seen:
        """The pieces of a rollout as one."""
        return cls(*(torch.cat([getattr(piece, f.name) for piece in pieces]) for f in fields(cls)))


@dataclass
class Scores:
    """A rollout's scores; N = B·G.

    Attributes:
        rewards: (B, G) totals.
        parts: (B, G) by name.
        advantages: (N,).
        old_log_probs: (N, R) under the policy that sampled; on the first update, those of the update's own pass count.
        ref_log_probs: (N, R) under the reference policy; ``None`` without a KL term.
        record: for callbacks.
    """

    rewards: Tensor
    parts: dict[str, Tensor]
    advantages: Tensor
    old_log_probs: Tensor
    ref_log_probs: Tensor | None
    record: RolloutRecord


@dataclass
class Rollout:
    """Completions sampled for a batch.

    Attributes:
        batch: B examples.
        completions: B·G.
        pieces: of the batch and its completions; one where there is no micro-batch.
        weights: (N, R) token weights over the whole batch.
        num_tokens: K, concentration tokens that a completion is asked to have.
        scores: filled in once the masks are known.
    """

    batch: SegmentationBatch
    completions: Completions
    pieces: list[Piece]
    weights: Tensor
    num_tokens: int = 1
    scores: Scores | None = None


def cut_into_pieces(
    model: CoprsModel, batch: SegmentationBatch, prompts: Prompts, completions: Completions, size: int | None
) -> list[Piece]:
    """Cut a rollout into pieces of at most ``size`` completions: whole groups where some fit, else parts of a group."""
    count = len(completions.ids)
    group = count // len(batch)
    features = model.features(batch) if model.backbone.frozen else None
    if size is None or size >= count:
        return [Piece(slice(0, count), batch, prompts, completions, features)]
    return [
        Piece(
            slice(start, stop),
            examples := batch.part(first, last),
            # encoded anew: what a processor makes of several images cannot be cut in general
            model.policy.encode_prompts(examples.images, examples.questions),
            completions.part(start, stop),
            None if features is None else features[first:last],
        )
        for first, last, start, stop in _ranges(len(batch), group, size)
    ]


def _ranges(count: int, group: int, size: int) -> Iterator[tuple[int, int, int, int]]:
    """First and last example, first and last completion of every piece."""
    together = max(1, size // group)
    for first in range(0, count, together):
        last = min(first + together, count)
        if size >= group:
            yield first, last, first * group, last * group
        else:
            for start in range(0, group, size):
                yield first, last, first * group + start, first * group + min(start + size, group)


def reward_inputs(rollout: Rollout, seen: Seen) -> RewardInputs:
    """What the rewards see of a rollout."""
    batch, completions = rollout.batch, rollout.completions
    group = len(completions.ids) // len(batch)
    return RewardInputs(
        questions=[question for question in batch.questions for _ in range(group)],
        texts=completions.texts,
        truncated=completions.truncated,
        present=seen.present,
        masks=seen.mask_logits.sigmoid(),
        heatmaps=seen.heatmap_logits.sigmoid(),
        targets=batch.masks[:, 0].float().repeat_interleave(group, 0),
        valid_sizes=batch.valid_sizes.repeat_interleave(group, 0),
        num_tokens=rollout.num_tokens,
    )


def make_record(
    rollout: Rollout, seen: Seen, rewards: Tensor, parts: dict[str, Tensor], advantages: Tensor
) -> RolloutRecord:
    """The rollout as callbacks see it."""
    shape = rewards.shape
    texts = rollout.completions.texts
    well_formed = torch.tensor(
        [parse_completion(text, rollout.num_tokens).well_formed for text in texts], device=rewards.device
    )
    return RolloutRecord(
        batch=rollout.batch,
        texts=texts,
        truncated=rollout.completions.truncated.view(shape),
        well_formed=well_formed.view(shape),
        lengths=rollout.completions.mask.sum(1).view(shape),
        rewards=rewards,
        reward_parts=parts,
        advantages=advantages,
        present=seen.present.view(shape),
        heatmap_logits=seen.heatmap_logits.unflatten(0, shape),
        mask_logits=seen.mask_logits.unflatten(0, shape),
        num_tokens=rollout.num_tokens,
    )
