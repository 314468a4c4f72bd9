"""Answers for people: thought, heatmap, mask and score at the image's own size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from coprs_lightning.geometry import restore
from coprs_lightning.images import ImageLike, as_pixels
from coprs_lightning.prompts import parse_completion
from coprs_lightning.structures import SegmentationBatch, SegmentationOutput

if TYPE_CHECKING:
    from coprs_lightning.model import CoprsModel


@dataclass
class ObjectAnswer:
    """One object of an answer.

    Attributes:
        mask: (H, W) bool.
        mask_probability: (H, W) float32 in [0, 1].
        heatmap: (H, W) float32 in [0, 1], the positional prior.
        score: see :class:`Answer`.
    """

    mask: np.ndarray
    mask_probability: np.ndarray
    heatmap: np.ndarray
    score: float


@dataclass
class Answer:
    """What the model says about one image. Arrays have the image's own size.

    Attributes:
        question: what was asked.
        completion: the text as generated.
        thought: its chain of thought; empty where it has none.
        answer: what it wrote between thought and concentration token.
        truncated: the length limit cut the completion.
        present: the completion has a concentration token. Without one there is no heatmap and the mask is empty.
        mask: (H, W) bool, all objects together.
        mask_probability: (H, W) float32 in [0, 1]; the mask is where it is above 0.5.
        heatmap: (H, W) float32 in [0, 1], the positional prior.
        score: in [0, 1]: mean probability inside the mask, times the confidence that there is an object where the model
            tells one; of several objects the best one's; 0 for an empty mask.
        objects: the objects that fit, best first: one for a model with one concentration token, none where the token is
            missing or nothing fits.
        num_tokens: concentration tokens in the completion.
        num_slots: K, those that the model reads: the last K.
        well_formed: one thought, and K concentration tokens after it.
    """

    question: str
    completion: str
    thought: str
    answer: str
    truncated: bool
    present: bool
    mask: np.ndarray
    mask_probability: np.ndarray
    heatmap: np.ndarray
    score: float
    objects: list[ObjectAnswer] = field(default_factory=list)
    num_tokens: int = 0
    num_slots: int = 1
    well_formed: bool = False

    @property
    def nothing_fits(self) -> bool:
        """The model looked and says that nothing in the image fits: there is a token, but the mask is empty."""
        return self.present and not self.mask.any()


def answers(batch: SegmentationBatch, output: SegmentationOutput, frame: int) -> list[Answer]:
    """Answers from a pass over a batch with one completion an example.

    Args:
        batch: B examples.
        output: B rows.
        frame: side S of the frames.
    """
    united = output.union()
    found = []
    for row, (text, truncated) in enumerate(
        zip(output.completions.texts, output.completions.truncated.tolist(), strict=True)
    ):
        to_image = _ToImage(batch, row, frame)
        heatmap, mask = (to_image(logits[row])[0] for logits in united)
        objects = _objects(output, row, to_image)
        slots = output.present.shape[1]
        parsed = parse_completion(text, slots)
        found.append(
            Answer(
                question=batch.questions[row],
                completion=text,
                thought=parsed.thought,
                answer=parsed.answer,
                truncated=truncated,
                present=bool(output.present[row].any()),
                mask=mask > 0.5,
                mask_probability=mask,
                heatmap=heatmap,
                score=max((one.score for one in objects), default=0.0),
                objects=objects,
                num_tokens=parsed.num_tokens,
                num_slots=slots,
                well_formed=parsed.well_formed,
            )
        )
    return found


class _ToImage:
    """Brings logits of one example to probabilities at its image's size: (K, h, w) → (K, H, W)."""

    def __init__(self, batch: SegmentationBatch, row: int, frame: int) -> None:
        height, width = batch.valid_sizes[row].tolist()
        self.valid = int(height), int(width)
        self.original = int(batch.images[row].shape[-2]), int(batch.images[row].shape[-1])
        self.frame = frame

    def __call__(self, logits: Tensor) -> np.ndarray:
        restored: np.ndarray = restore(logits, self.valid, self.original, self.frame).sigmoid().cpu().numpy()
        return restored


def _objects(output: SegmentationOutput, row: int, to_image: _ToImage) -> list[ObjectAnswer]:
    """The slots of a row that stand for an object, best first."""
    confidence = torch.ones_like(output.present[row], dtype=torch.float32)
    if output.confidence_logits is not None:
        confidence = output.confidence_logits[row].float().sigmoid()
    objects = []
    for slot in output.chosen[row].nonzero()[:, 0].tolist():
        mask = to_image(output.mask_logits[row, slot : slot + 1])[0]
        heatmap = to_image(output.heatmap_logits[row, slot : slot + 1])[0]
        inside = mask[mask > 0.5]
        score = float(inside.mean()) * float(confidence[slot]) if inside.size else 0.0
        objects.append(ObjectAnswer(mask > 0.5, mask, heatmap, score))
    return sorted(objects, key=lambda one: -one.score)


def batch_from_images(images: Sequence[Tensor], questions: Sequence[str], frame: int) -> SegmentationBatch:
    """A batch for inference: images and questions, no ground truth."""
    return SegmentationBatch(
        keys=[str(i) for i in range(len(images))],
        images=list(images),
        questions=list(questions),
        original_masks=[torch.zeros(image.shape[-2:], dtype=torch.bool) for image in images],
        original_ignores=[None] * len(images),
        reasonings=[None] * len(images),
        kinds=[""] * len(images),
        image_size=frame,
    )


def ask(
    model: CoprsModel,
    images: ImageLike | list[Any] | tuple[Any, ...],
    questions: str | list[str] | tuple[str, ...],
    *,
    max_new_tokens: int,
    temperature: float,
    batch_size: int,
) -> Answer | list[Answer]:
    """See :meth:`coprs_lightning.model.CoprsModel.segment`."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}: nothing would be answered.")
    image_list, question_list, single = _paired(images, questions)
    found: list[Answer] = []
    for start in range(0, len(image_list), batch_size):
        chunk = slice(start, start + batch_size)
        pixels = [image if single else _numbered(image, start + i) for i, image in enumerate(image_list[chunk])]
        batch, output = model.generate_and_segment(
            [as_pixels(image) for image in pixels],
            question_list[chunk],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
        )
        found += answers(batch, output, model.image_size)
    return found[0] if single else found


def _numbered(image: Any, number: int) -> Tensor:
    """An image of a list as pixels.

    Raises:
        ValueError: with its number.
    """
    try:
        return as_pixels(image)
    except ValueError as error:
        raise ValueError(f"images[{number}]: {error}") from error


def stream(
    model: CoprsModel,
    image: ImageLike,
    question: str,
    *,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
) -> Iterator[str | Answer]:
    """Answer one question and tell the completion while it is written.

    Args:
        model: a trained model.
        image: see :func:`~coprs_lightning.images.as_pixels`.
        question: what to look for.
        max_new_tokens: longest completion; ``None`` takes the model's.
        temperature: 0 decodes greedily.

    Yields:
        the completion so far, again and again; at last the answer, as :meth:`CoprsModel.segment` gives it.

    Raises:
        ValueError: see :meth:`CoprsModel.segment`.
    """
    check_question(question)
    batch = batch_from_images([as_pixels(image)], [question], model.image_size).to(model.policy.device)
    limit = model.max_new_tokens if max_new_tokens is None else max_new_tokens
    with evaluating(model):
        prompts = model.policy.encode_prompts(batch.images, batch.questions)
    written = model.policy.stream(prompts, max_new_tokens=limit, temperature=temperature)
    completions = None
    while True:
        with evaluating(model):  # not around a yield: others may use the model while the caller looks at the text
            completions_so_far = next(written, None)
        if completions_so_far is None:
            break
        completions = completions_so_far
        yield completions.texts[0]
    assert completions is not None
    with evaluating(model):
        output = model(batch, prompts, completions)
    yield answers(batch, output, model.image_size)[0]


def _paired(images: Any, questions: str | Sequence[str]) -> tuple[list[Any], list[str], bool]:
    """Images and questions one to one, and whether one of each was given.

    Raises:
        ValueError: where the numbers do not fit, or a question is empty.
    """
    several_images, several_questions = isinstance(images, list | tuple), not isinstance(questions, str)
    image_list = list(images) if several_images else [images]
    question_list = [questions] if isinstance(questions, str) else list(questions)
    if several_images and not several_questions:
        question_list *= len(image_list)
    if several_questions and not several_images:
        image_list *= len(question_list)
    if len(image_list) != len(question_list):
        raise ValueError(
            f"{len(image_list)} images, but {len(question_list)} questions: give one for each, or a single one for all."
        )
    for question in question_list:
        check_question(question)
    return image_list, question_list, not (several_images or several_questions)


def check_question(question: Any) -> None:
    """Refuse what cannot be asked.

    Raises:
        ValueError: for an empty question, or one that is no text.
    """
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"the question {question!r} is empty or no text: there is nothing to look for. Ask something.")


@contextmanager
def evaluating(model: CoprsModel) -> Iterator[None]:
    """Eval mode without gradients; as before afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
