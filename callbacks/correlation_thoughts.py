"""Does the mask follow the thought? Quality of the reasoning against mask quality (paper section 4, CoT quality)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callbacks.correlation import ExampleCorrelation
from callbacks.correlation_thought_score import score_thought
from callbacks.step_outputs import original_logits
from coprs_lightning.metrics.iou import example_iou, intersection_and_union
from coprs_lightning.prompts import parse_completion

if TYPE_CHECKING:
    from coprs_lightning.structures import SegmentationBatch, SegmentationOutput


class ThoughtMaskCorrelation(ExampleCorrelation):
    """Share of right facts in the thought against mask IoU, one point an example, where the true thought is known.

    The paper has thoughts judged by a large language model; synthetic data knows the true chain of thought, so that a
    rule does (:mod:`callbacks.correlation_thought_score`). Examples without one are counted and left out: on other data
    nothing is written. A completion without a concentration token has an empty mask, and counts.

    Args:
        max_points: examples kept of each epoch; of more, a sample that is always the same.
        folder: where to, relative to the logger's folder (or ``trainer.default_root_dir`` without one).

    Raises:
        ValueError: for fewer than three points.
    """

    name = "thought_mask"
    title = "Thought and mask"
    columns = ("thought_score", "mask_iou")

    def scores(
        self, output: SegmentationOutput, batch: SegmentationBatch, index: int, frame: int
    ) -> tuple[float, float] | str:
        """See :meth:`ExampleCorrelation.scores`."""
        thought = parse_completion(output.completions.texts[index], output.present.shape[1]).thought
        score = score_thought(thought, batch.reasonings[index])
        if score is None:
            return "no_written_thought"
        _, mask = output.union()
        marked = original_logits(mask, batch, index, frame) > 0
        counted = intersection_and_union(marked, batch.original_masks[index], batch.original_ignores[index])
        return score.value, example_iou(*(int(count) for count in counted))
