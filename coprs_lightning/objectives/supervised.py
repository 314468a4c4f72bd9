"""Teacher-forced training: cross-entropy on written completions plus the paper's segmentation losses.

Beyond teacher forcing, the segmentation loss may be taken on the policy's *own* completions: a model that only ever saw
written thoughts follows its own wrong ones blindly at test time.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from coprs_lightning.geometry import valid_mask
from coprs_lightning.losses.language import completion_cross_entropy
from coprs_lightning.losses.segmentation import PAPER_WEIGHTS, SegmentationWeights, segmentation_loss
from coprs_lightning.model import CoprsModel
from coprs_lightning.objectives.base import Objective, ObjectiveOutput
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
        own_completions_every: int = 0,
        own_completions_from: int = 0,
        own_temperature: float = 1.0,
        max_new_tokens: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if switch_step >= 0 and later_segmentation is None:
            raise ValueError(
                f"objective.switch_step is {switch_step} but objective.later_segmentation is null: nothing would "
                "switch. Give the second set of coefficients, or switch_step: -1."
            )
        self.language_weight = language_weight
        self.segmentation_weight = segmentation_weight
        self.segmentation = segmentation
        self.later_segmentation = later_segmentation
        self.switch_step = switch_step
        self.ignore_padding = ignore_padding
        self.own_completions_every = own_completions_every
        self.own_completions_from = own_completions_from
        self.own_temperature = own_temperature
        self.max_new_tokens = max_new_tokens

    def weights_at(self, step: int) -> SegmentationWeights:
        """The coefficients in force at an optimizer step."""
        if self.later_segmentation is not None and 0 <= self.switch_step <= step:
            return self.later_segmentation
        return self.segmentation

    def _uses_own(self, step: int) -> bool:
        every = self.own_completions_every
        return every > 0 and step >= self.own_completions_from and step % every == 0

    def forward(self, model: CoprsModel, batch: SegmentationBatch, step: int) -> ObjectiveOutput:
        """See :meth:`Objective.forward`."""
        prompts = model.policy.encode_prompts(batch.images, batch.questions)
        written = self.written_completions(model, batch)
        logs: dict[str, Tensor] = {}
        if self._uses_own(step):
            own = model.policy.generate(prompts, max_new_tokens=self.max_new_tokens, temperature=self.own_temperature)
            output = model(batch, prompts, own)
            taught = model.policy(prompts, written)
            logs["own/token_rate"] = output.present.float().mean()
        else:
            output = model(batch, prompts, written)
            taught = output.policy
        language = completion_cross_entropy(model.policy.completion_logits(taught), written.ids, written.mask).mean()
        segmentation, parts = masked_segmentation_loss(
            output, batch, self.weights_at(step), model.image_size, self.ignore_padding
        )
        loss = self.language_weight * language + self.segmentation_weight * segmentation
        logs.update({"loss": loss, "loss/language": language, "loss/segmentation": segmentation})
        logs.update({f"loss/{name}": value for name, value in parts.items()})
        return ObjectiveOutput(loss, {key: value.detach() for key, value in logs.items()})


def masked_segmentation_loss(
    output: SegmentationOutput,
    batch: SegmentationBatch,
    weights: SegmentationWeights,
    frame: int,
    ignore_padding: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Segmentation loss over the examples that have a concentration token.

    Returns:
        the mean loss and the means of its parts; zeros that keep the graph where no example has a token.
    """
    rows = output.present.any(1)
    heat, mask = output.heatmap_logits[rows].amax(1, keepdim=True), output.mask_logits[rows].amax(1, keepdim=True)
    if not rows.any():
        # times zero before the sum, since a sum may overflow in half precision; hidden states of padding may be NaN
        hidden = output.policy.hidden[output.policy.attention_mask]
        return (output.mask_logits * 0.0).sum() + (hidden * 0.0).sum(), {}
    valid = None
    if ignore_padding:
        sizes = batch.valid_sizes[rows]
        valid = (
            valid_mask(sizes, (heat.shape[-2], heat.shape[-1]), frame),
            valid_mask(sizes, (mask.shape[-2], mask.shape[-1]), frame),
        )
    losses, parts = segmentation_loss(heat, mask, batch.masks[rows], weights, valid)
    return losses.mean(), {name: value.mean() for name, value in parts.items()}
