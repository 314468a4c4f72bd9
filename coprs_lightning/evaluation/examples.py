"""One record an example: what was asked, what was written, and how good the masks are at the image's own size."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from coprs_lightning.geometry import restore
from coprs_lightning.metrics.iou import example_iou, intersection_and_union
from coprs_lightning.prompts import parse_completion
from coprs_lightning.structures import SegmentationBatch, SegmentationOutput


@dataclass(frozen=True)
class ExampleRecord:
    """One example and its answer; plain data, so that processes can exchange it.

    Attributes:
        key: unique name of the example inside its split and unit.
        image: name of the image that it is about.
        kind: kind of question, ``""`` when unknown.
        question: what was asked.
        written_thought: the chain of thought that the data has, or ``None``.
        completion: what the policy wrote.
        thought: its chain of thought; empty where it has none.
        answer: what it wrote between thought and concentration token.
        well_formed: the completion format is kept.
        truncated: the length limit cut the completion.
        present: the completion has a concentration token; without one the mask is empty.
        num_tokens: concentration tokens in it.
        completion_tokens: its length in tokens.
        height: of the image, pixels.
        width: of the image, pixels.
        scores: numbers of the masks, by name.
    """

    key: str
    image: str
    kind: str
    question: str
    written_thought: str | None
    completion: str
    thought: str
    answer: str
    well_formed: bool
    truncated: bool
    present: bool
    num_tokens: int
    completion_tokens: int
    height: int
    width: int
    scores: dict[str, Any] = field(default_factory=dict)

    def line(self, split: str, unit: str) -> dict[str, Any]:
        """The record as a flat line of ``examples.jsonl``."""
        content = asdict(self)
        scores = content.pop("scores")
        return {"key": content.pop("key"), "split": split, "unit": unit, **content, **scores}


def example_records(
    batch: SegmentationBatch, output: SegmentationOutput, frame: int, *, prefixed: bool = False
) -> list[ExampleRecord]:
    """Score a batch, one example at a time so that only one is at full resolution.

    Args:
        batch: B examples with their ground truth.
        output: B rows.
        frame: side S of the frames.
        prefixed: keys begin with the name of a split, since several are read as one.
    """
    heatmap, mask = output.union()
    slots = output.present.shape[1]
    lengths = output.completions.mask.sum(1).tolist()
    truncated = output.completions.truncated.tolist()
    found = []
    for row, text in enumerate(output.completions.texts):
        parsed = parse_completion(text, slots)
        height, width = batch.original_masks[row].shape
        found.append(
            ExampleRecord(
                key=batch.keys[row],
                image="/".join(batch.keys[row].split("/")[: 2 if prefixed else 1]),
                kind=batch.kinds[row],
                question=batch.questions[row],
                written_thought=batch.reasonings[row],
                completion=text,
                thought=parsed.thought,
                answer=parsed.answer,
                well_formed=parsed.well_formed,
                truncated=bool(truncated[row]),
                present=bool(output.present[row].any()),
                num_tokens=parsed.num_tokens,
                completion_tokens=int(lengths[row]),
                height=int(height),
                width=int(width),
                scores=_scores(batch, row, heatmap, mask, frame),
            )
        )
    return found


def at_original_size(logits: Tensor, batch: SegmentationBatch, row: int, frame: int) -> Tensor:
    """Logits (B, 1, h, w) over the frames → (H, W) of one example at its image's size; the mask is ``> 0``."""
    height, width = batch.original_masks[row].shape
    valid_height, valid_width = batch.valid_sizes[row].tolist()
    return restore(logits[row], (int(valid_height), int(valid_width)), (height, width), frame)[0]


def _scores(batch: SegmentationBatch, row: int, heatmap: Tensor, mask: Tensor, frame: int) -> dict[str, Any]:
    truth, ignore = batch.original_masks[row], batch.original_ignores[row]
    scores: dict[str, Any] = {}
    for prefix, logits in (("", mask), ("heatmap_", heatmap)):
        marked = at_original_size(logits, batch, row, frame) > 0
        intersection, union = (int(count) for count in intersection_and_union(marked, truth, ignore))
        scores |= {
            f"{prefix}iou": example_iou(intersection, union),
            f"{prefix}intersection": intersection,
            f"{prefix}union": union,
        }
    counted = truth if ignore is None else truth & ~ignore
    wanted = int(counted.sum())
    return {**scores, "target_pixels": wanted, "predicted_pixels": scores["union"] - wanted + scores["intersection"]}
