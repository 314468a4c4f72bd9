"""One record an example: what was asked, what was written, and how good the masks are at the image's own size."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from coprs_lightning.metrics import answers, example_scores
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
        objects: objects that the ground truth consists of.
        distractors: other objects that could be taken for it, or ``None`` when unknown.
        scores: see :func:`~coprs_lightning.metrics.example_scores`.
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
    objects: int = 1
    distractors: int | None = None
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
    slots = output.present.shape[1]
    lengths = output.completions.mask.sum(1).tolist()
    truncated = output.completions.truncated.tolist()
    found = []
    for row, answer in enumerate(answers(batch, output, frame)):
        text = output.completions.texts[row]
        parsed = parse_completion(text, slots)
        height, width = answer.target.shape
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
                objects=answer.objects,
                distractors=answer.distractors,
                scores=example_scores(answer),
            )
        )
    return found
