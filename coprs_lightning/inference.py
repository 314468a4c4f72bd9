"""Answers for people: images of any kind in, thought, heatmap and mask at the image's own size out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from coprs_lightning.geometry import restore
from coprs_lightning.prompts import ParsedCompletion, parse_completion
from coprs_lightning.structures import SegmentationBatch, SegmentationOutput

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from coprs_lightning.model import CoprsModel

ImageLike: TypeAlias = "Tensor | np.ndarray | PILImage | str | Path"
"""What :func:`as_pixels` takes."""

MAX_ASPECT = 200
"""Times that an image may be longer than wide; the vision towers refuse longer strips."""


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

    @property
    def nothing_fits(self) -> bool:
        """The model says that the image holds nothing of the kind: there is a token, and no object."""
        return self.present and not self.mask.any()

    @property
    def parsed(self) -> ParsedCompletion:
        """The completion taken apart."""
        return parse_completion(self.completion)


def answers(batch: SegmentationBatch, output: SegmentationOutput, frame: int) -> list[Answer]:
    """Answers from a pass over a batch with one completion an example.

    Args:
        batch: B examples.
        output: B rows.
        frame: side S of the frames.
    """
    return [_answer(batch, output, row, frame) for row in range(len(batch))]


def _answer(batch: SegmentationBatch, output: SegmentationOutput, row: int, frame: int) -> Answer:
    height, width = batch.valid_sizes[row].tolist()
    original = int(batch.images[row].shape[-2]), int(batch.images[row].shape[-1])

    def probabilities(logits: Tensor) -> np.ndarray:
        restored: np.ndarray = restore(logits.float(), (height, width), original, frame).sigmoid().cpu().numpy()
        return restored

    heatmap = probabilities(output.heatmap_logits[row].amax(0, keepdim=True))[0]
    mask = probabilities(output.mask_logits[row].amax(0, keepdim=True))[0]
    slots = [slot for slot, present in enumerate(output.present[row].tolist()) if present]
    objects = (
        [
            ObjectAnswer(own_mask > 0.5, own_mask, own_heatmap, _inside(own_mask))
            for own_mask, own_heatmap in zip(
                probabilities(output.mask_logits[row, slots]),
                probabilities(output.heatmap_logits[row, slots]),
                strict=True,
            )
        ]
        if slots
        else []
    )
    objects.sort(key=lambda one: -one.score)
    text = output.completions.texts[row]
    parsed = parse_completion(text)
    return Answer(
        question=batch.questions[row],
        completion=text,
        thought=parsed.thought,
        answer=parsed.answer,
        truncated=bool(output.completions.truncated[row]),
        present=bool(output.present[row].any()),
        mask=mask > 0.5,
        mask_probability=mask,
        heatmap=heatmap,
        score=max((one.score for one in objects), default=0.0),
        objects=objects,
    )


def _inside(probability: np.ndarray) -> float:
    inside = probability[probability > 0.5]
    return float(inside.mean()) if inside.size else 0.0


# -- images ------------------------------------------------------------------------------------------------------------


def as_pixels(image: ImageLike) -> Tensor:
    """An image of any kind as (3, H, W) uint8 RGB.

    Args:
        image: tensor (3, H, W) uint8, array (H, W, 3) uint8, Pillow image, or the path of a file.

    Raises:
        ValueError: for anything else, a broken file, or a strip that no vision tower takes.
    """
    if isinstance(image, str | Path):
        return _tensor(read_image(Path(image)))
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
            raise ValueError(
                f"an image as a tensor is (3, H, W) uint8 RGB, got {tuple(image.shape)} {image.dtype}. Convert it, or "
                "give a Pillow image or a path."
            )
        check_size(int(image.shape[2]), int(image.shape[1]), "the image")
        return image
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"an image as an array is (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}. Convert it, or give a "
                "Pillow image or a path."
            )
        check_size(image.shape[1], image.shape[0], "the image")
        return _tensor(image)
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise ValueError(
            f"{type(image).__name__} is no image. Give a path, a Pillow image, an array (H, W, 3) or a tensor "
            "(3, H, W), both uint8 RGB."
        )
    check_size(*image.size, "the image")
    return _tensor(rgb(image))


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def check_size(width: int, height: int, name: str) -> None:
    """Refuse what no vision tower takes.

    Raises:
        ValueError: for an image without pixels or a long strip.
    """
    if min(width, height) < 1:
        raise ValueError(f"{name} has {width} × {height} pixels: there is nothing to see.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(
            f"{name} has {width} × {height} pixels: more than {MAX_ASPECT} times as long as wide. Crop it."
        )


def read_image(path: Path) -> np.ndarray:
    """Read an image as a person sees it: turned by its EXIF orientation, transparency on white, 16 bit as 8.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: for a file that is missing or no image, or a strip that no vision tower takes.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not path.is_file():
        raise ValueError(f"there is no image {path}.")
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no image in a format that Pillow knows.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image {path} cannot be read (broken or cut short): {error}") from error
    check_size(*image.size, f"image {path}")
    return rgb(image)


def rgb(image: PILImage) -> np.ndarray:
    """Any Pillow mode as (H, W, 3) uint8."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        if image.mode.startswith("I;16") or values.max(initial=0) > 255:  # 16 bit: 65 535 is white
            values = values / 257
        image = Image.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.array(image.convert("RGB"))


# -- asking ------------------------------------------------------------------------------------------------------------


def paired(images: Any, questions: str | Sequence[str]) -> tuple[list[Any], list[str], bool]:
    """Images and questions one to one.

    Args:
        images: one image or a sequence.
        questions: one question or a sequence. One of anything goes with each of the other.

    Returns:
        N images, N questions, and whether one of each was given.

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
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"the question {question!r} is empty or no text: there is nothing to look for.")
    return image_list, question_list, not (several_images or several_questions)


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
