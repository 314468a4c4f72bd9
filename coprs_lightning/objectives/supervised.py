"""Teacher-forced training: cross-entropy on written completions plus the paper's segmentation losses.

Beyond teacher forcing, the segmentation loss may be taken on the policy's *own* completions: a model that only ever saw
written thoughts follows its own wrong ones blindly at test time.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from coprs_lightning.losses.language import completion_cross_entropy
from coprs_lightning.losses.matching import DEFAULT_MATCHING, MatchingOptions
from coprs_lightning.losses.segmentation import PAPER_WEIGHTS, SegmentationWeights
from coprs_lightning.model import CoprsModel
from coprs_lightning.objectives.base import Objective, ObjectiveOutput, TrainingStep
from coprs_lightning.objectives.segmentation import SegmentationSchedule, segmentation_rows
from coprs_lightning.structures import SegmentationBatch, SegmentationOutput


class SupervisedObjective(Objective):
    """Language loss on written thoughts + segmentation loss through the concentration token.

    Args:
        language_weight: weight of the cross-entropy of the completion.
        segmentation_weight: weight of the segmentation loss (the paper's λ_SEG is 0.3).
        segmentation: coefficients of the segmentation loss; the default is the paper's set.
        later_segmentation: coefficients from ``switch_step`` on; ``null`` keeps the first set.
        switch_step: optimizer step at which the coefficients switch; -1 for never.
        ignore_padding: leave the padding out of the segmentation loss (the paper counts it as background).
        matching: how objects are assigned to concentration tokens, where there are several.
        own_completions_every: every so many steps, take the segmentation loss on completions that the policy samples
            itself; 0 for never.
        own_completions_from: first step that may do so.
        own_temperature: sampling temperature of those completions; 0 is greedy.
        max_new_tokens: length limit of those completions.
        kwargs: ``fallback_thought`` and what :class:`~coprs_lightning.component.Component` takes.
    """

    def __init__(
        self,
        *,
        language_weight: float = 1.0,
        segmentation_weight: float = 1.0,
        segmentation: SegmentationWeights = PAPER_WEIGHTS,
        later_segmentation: SegmentationWeights | None = None,
        switch_step: int = -1,
        ignore_padding: bool = False,
        matching: MatchingOptions = DEFAULT_MATCHING,
        own_completions_every: int = 0,
        own_completions_from: int = 0,
        own_temperature: float = 1.0,
        max_new_tokens: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.language_weight = language_weight
        self.segmentation_weight = segmentation_weight
        self.schedule = SegmentationSchedule(segmentation, later_segmentation, switch_step)
        self.ignore_padding = ignore_padding
        self.matching = matching
        self.own_completions_every = own_completions_every
        self.own_completions_from = own_completions_from
        self.own_temperature = own_temperature
        self.max_new_tokens = max_new_tokens

    @property
    def samples(self) -> bool:
        """See :attr:`Objective.samples`."""
        return self.own_completions_every > 0

    def _uses_own(self, step: int) -> bool:
        every = self.own_completions_every
        return every > 0 and step >= self.own_completions_from and step % every == 0

    def forward(self, model: CoprsModel, batch: SegmentationBatch, step: TrainingStep) -> ObjectiveOutput:
        """See :meth:`Objective.forward`."""
        prompts = model.policy.encode_prompts(batch.images, batch.questions)
        written = self.written_completions(model, batch)
        logs: dict[str, Tensor] = {}
        if self._uses_own(step.number):
            own = model.policy.generate(prompts, max_new_tokens=self.max_new_tokens, temperature=self.own_temperature)
            output = model(batch, prompts, own)
            taught = model.policy(prompts, written)
            logs["own/token_rate"] = output.present.float().mean()
        else:
            output = model(batch, prompts, written)
            taught = output.policy
        language = completion_cross_entropy(model.policy.completion_logits(taught), written.ids, written.mask).mean()
        segmentation, parts = masked_segmentation_loss(
            output, batch, self.schedule.at(step.number), model.image_size, self.ignore_padding, self.matching
        )
        loss = self.language_weight * language + self.segmentation_weight * segmentation
        logs.update({"loss": loss, "loss/language": language, "loss/segmentation": segmentation})
        logs.update(parts)
        return ObjectiveOutput(loss, {key: value.detach() for key, value in logs.items()})


def masked_segmentation_loss(
    output: SegmentationOutput,
    batch: SegmentationBatch,
    weights: SegmentationWeights,
    frame: int,
    ignore_padding: bool,
    matching: MatchingOptions = DEFAULT_MATCHING,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Segmentation loss over the examples that have a concentration token.

    Returns:
        the mean loss and the means of what is to be logged of it; zeros that keep the graph, and nothing to log, where
        no example has a token.
    """
    count = output.present.any(1).sum()
    losses, parts = segmentation_rows(output, batch, weights, frame, ignore_padding, matching)
    if not count:
        return losses.sum(), {}
    return losses.sum() / count, {name: value.sum() / count for name, value in parts.items()}
