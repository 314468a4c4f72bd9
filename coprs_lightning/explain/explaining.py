"""Taking one answer apart, and answering again with one thing changed at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coprs_lightning.decoders import UpsampleDecoder
from coprs_lightning.explain.case import Case, evaluated
from coprs_lightning.explain.explanation import (
    BOX,
    GIVEN,
    OTHER_THOUGHT,
    TARGET,
    WITHOUT_THOUGHT,
    Explanation,
    HeadMap,
    Reading,
    mask_iou,
)
from coprs_lightning.explain.findings import findings
from coprs_lightning.explain.gradients import heatmap_gradient
from coprs_lightning.explain.heatmaps import (
    Levels,
    box_heatmap,
    check_decoder,
    check_heatmap,
    mask_heatmap,
    read_heatmap,
)
from coprs_lightning.explain.influence import words_of
from coprs_lightning.images import ImageLike
from coprs_lightning.inference import check_question
from coprs_lightning.model import CoprsModel
from coprs_lightning.prompts import parse_completion
from coprs_lightning.structures import Completions, SegmentationOutput


def explain(
    model: CoprsModel,
    image: ImageLike,
    question: str,
    *,
    thoughts: Sequence[str] = ("",),
    box: Sequence[float] | None = None,
    heatmap: Tensor | str | Path | None = None,
    target: np.ndarray | None = None,
    max_new_tokens: int | None = None,
    leave_out: int = 64,
) -> Explanation:
    """Answer a question, take the answer apart, and answer again with one thing changed at a time.

    Args:
        model: a trained model.
        image: see :func:`~coprs_lightning.images.as_pixels`.
        question: what to look for.
        thoughts: other thoughts, each a counterfactual; ``""`` takes the thought away.
        box: left, top, right and bottom in pixels of the image, in place of the heatmap.
        heatmap: (H, W) or (n, H, W) logits over the image, in place of the heatmap; or a file that
            :func:`~coprs_lightning.explain.heatmaps.read_heatmap` reads.
        target: (H, W) bool, the mask that would be right. It is also tried as the heatmap: what the decoder makes of a
            perfect one tells whose fault a bad mask is.
        max_new_tokens: longest completion; ``None`` takes the model's.
        leave_out: most tokens of the thought that are left out one at a time, each in a pass of its own; 0 for none.

    Raises:
        ValueError: for a question, box, heatmap or target that does not fit, or a heatmap or box for a model without a
            decoder.
    """
    check_question(question)
    for given, name in ((box, "box"), (heatmap, "heatmap")):
        if given is not None:
            check_decoder(model, name)
    case = Case(model, image, question)
    check_target(target, case.size)
    _given(heatmap, case, Levels())  # before anything slow: does it fit?
    completions = case.written(max_new_tokens)
    with torch.no_grad():
        output = case.run(completions)
    slots = counted(output)
    own = output.heatmap_logits[0, slots]
    levels = Levels.of(own[:, case.inside])
    drawn: dict[str, Tensor] = {}
    if box is not None:
        drawn[BOX] = box_heatmap(box, case.size, levels)[None]
    if (given := _given(heatmap, case, levels)) is not None:
        drawn[GIVEN] = given
    has_decoder = not isinstance(model.decoder, UpsampleDecoder)
    if target is not None and target.any() and has_decoder:
        drawn[TARGET] = mask_heatmap(target, levels)[None]
    original = _reading(case, "as it is", completions, output)
    others = [_thinking(case, thought) for thought in thoughts]
    others += [_drawn(case, name, logits) for name, logits in drawn.items()]
    for reading in (original, *others):
        _score(reading, original, target)
    region, region_name = _region(original, target)
    words, prompt, share = words_of(case, completions, output, region, slots if original.present else [], leave_out)
    explanation = Explanation(
        question=question,
        image=case.batch.images[0].permute(1, 2, 0).cpu().numpy(),
        original=original,
        counterfactuals=others,
        words=words,
        prompt=prompt,
        head_maps=_head_maps(case, output, slots) if original.present else [],
        heatmap_logits=_numpy(case.to_image(own)) if original.present else np.zeros((0, *case.size), np.float32),
        heatmap_gradient=None,
        soft_iou=None,
        region=region_name if original.present else None,
        region_share=share,
        levels=levels,
        target=target,
        truncated=bool(completions.truncated[0]),
        num_tokens=int(output.policy.token_mask[0].sum()),
        num_slots=model.policy.num_tokens,
        has_decoder=has_decoder,
    )
    if region is not None and original.present:
        score, gradient = heatmap_gradient(case, own, torch.from_numpy(region).to(own.device))
        explanation.soft_iou = score
        explanation.heatmap_gradient = _numpy(case.to_image(gradient.sum(0, keepdim=True)))[0]

    explanation.findings = findings(explanation)
    return explanation


def _given(heatmap: Tensor | str | Path | None, case: Case, levels: Levels) -> Tensor | None:
    """A heatmap as (n, H, W) logits."""
    if heatmap is None:
        return None
    if isinstance(heatmap, str | Path):
        return read_heatmap(Path(heatmap), case.size, levels)
    logits = heatmap[None] if heatmap.ndim == 2 else heatmap
    check_heatmap(logits, case.size)
    return logits


def check_target(target: np.ndarray | None, size: tuple[int, int]) -> None:
    """Refuse a target that is no mask of the image.

    Raises:
        ValueError: with both sizes.
    """
    if target is not None and (target.dtype != np.bool_ or target.shape != size):
        raise ValueError(
            f"target is {target.dtype} of the shape {target.shape}; a bool mask of the image's size {size} (height, "
            "width) is needed, as IoU is taken pixel by pixel."
        )


def counted(output: SegmentationOutput) -> list[int]:
    """Slots whose heatmaps are looked at: those that stand for an object, else all that are present, else the first."""
    for chosen in (output.chosen[0], output.present[0]):
        if chosen.any():
            return [int(slot) for slot in chosen.nonzero()[:, 0]]
    return [0]


def _numpy(values: Tensor) -> np.ndarray:
    found: np.ndarray = values.detach().float().cpu().numpy()
    return found


def _region(original: Reading, target: np.ndarray | None) -> tuple[np.ndarray | None, str | None]:
    """What the gradients are about: the target, else the mask, else the heatmap, whichever is not empty."""
    for name, mask in (("target", target), ("mask", original.mask), ("heatmap", original.before)):
        if mask is not None and mask.any():
            return mask, name
    return None, None


def _reading(case: Case, name: str, completions: Completions, output: SegmentationOutput) -> Reading:
    heatmap, mask = output.union()
    text = completions.texts[0]
    return _seen(
        case,
        Reading(
            name,
            text,
            parse_completion(text, case.model.policy.num_tokens).thought,
            bool(output.present[0].any()),
            *_EMPTY,
            objects=int(output.chosen[0].sum()),
        ),
        heatmap[0],
        mask[0],
    )


_EMPTY = (np.zeros((0, 0)),) * 4


def _seen(case: Case, reading: Reading, heatmap_logits: Tensor, mask_logits: Tensor) -> Reading:
    """A reading with its pictures, from (1, …) logits."""
    heatmap, mask = (_numpy(case.to_image(logits))[0] for logits in (heatmap_logits, mask_logits))
    probability, mask_probability = (_numpy(torch.from_numpy(logits).sigmoid()) for logits in (heatmap, mask))
    return replace(reading, heatmap=probability, before=heatmap > 0, mask=mask > 0, mask_probability=mask_probability)


def _thinking(case: Case, thought: str) -> Reading:
    completions = case.thinking(thought)
    with torch.no_grad():
        output = case.run(completions)
    return _reading(case, OTHER_THOUGHT if thought.strip() else WITHOUT_THOUGHT, completions, output)


def _drawn(case: Case, name: str, logits: Tensor) -> Reading:
    """A given heatmap decoded; every map stands for an object, as a person says so."""
    with torch.no_grad():
        heatmap = case.to_grid(logits)
        mask = case.decode(heatmap)
    reading = Reading(name, None, None, True, *_EMPTY, objects=len(logits))
    union = (heatmap.amax(0, keepdim=True), mask.amax(0, keepdim=True))
    return _seen(case, reading, *union)


def _score(reading: Reading, original: Reading, target: np.ndarray | None) -> None:
    if reading is not original:
        reading.iou = mask_iou(reading.mask, original.mask)
    if target is None:
        return
    reading.iou_target = mask_iou(reading.mask, target)
    reading.before_iou_target = mask_iou(reading.before, target)
    total = float(reading.heatmap.sum(dtype=np.float64))
    if target.any() and total > 0:
        reading.inside_target = float(reading.heatmap[target].sum(dtype=np.float64)) / total


def _head_maps(case: Case, output: SegmentationOutput, slots: list[int]) -> list[HeadMap]:
    model = case.model
    with torch.no_grad(), evaluated(model):
        states = replace(output.policy, hidden=output.policy.hidden.to(model.dtype))
        maps = model.heatmap_head.maps(model.aggregator(states).query, case.features)
    return [
        HeadMap(name, slot + 1, _numpy(case.to_image(values[0, slot : slot + 1]))[0])
        for slot in slots
        for name, values in maps.items()
    ]
