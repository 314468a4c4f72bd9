"""What an explanation says, in sentences: where between thought and mask an answer went the way it did.

Every sentence follows from numbers of the explanation and names them; none is a guess about the model's mind.
"""

from __future__ import annotations

from collections.abc import Iterator

from coprs_lightning.explain.explanation import TARGET, Explanation, Reading
from coprs_lightning.explain.influence import agreement

UNSURE = 0.5
"""Probability below which a written token counts as a toss-up."""

LITTLE = 0.05
"""Change of the heatmap's share that is not worth a word."""

ALIKE = 0.5
"""Rank correlation from which two orders of words count as alike."""

GOOD, BAD = 0.7, 0.5
"""IoU from which two masks count as alike, and below which as different."""


def findings(explanation: Explanation) -> list[str]:
    """Sentences, from the thought to the mask."""
    parts = (_thought, _words, _heatmap, _changed_thoughts, _blame)
    return [sentence for part in parts for sentence in part(explanation)]


def _thought(explanation: Explanation) -> Iterator[str]:
    original = explanation.original
    if not original.present:
        cut = " because the length limit cut it (--max-new-tokens)" if explanation.truncated else ""
        yield f"The completion has no concentration token{cut}: there is no heatmap, and the mask is empty."
    elif explanation.num_tokens > explanation.num_slots:
        number, slots = explanation.num_tokens, explanation.num_slots
        yield f"The completion has {number} concentration tokens; the last {slots} count."
    unsure = [word for word in explanation.words if word.part == "thought" and (word.probability or 0) < UNSURE]
    if unsure:
        least = min(unsure, key=lambda word: word.probability or 0)
        yield (
            f"The least probable token of the thought is {least.text.strip()!r} ({least.probability:.2f}; "
            f"{len(unsure)} below {UNSURE}): it might as well have gone another way."
        )


def _words(explanation: Explanation) -> Iterator[str]:
    measured = [word for word in explanation.words if word.left_out is not None]
    if not measured or explanation.region is None:
        return
    most = max(measured, key=lambda word: abs(word.left_out or 0))
    effect = most.left_out or 0.0
    if abs(effect) < LITTLE:
        yield f"No single token of the thought moves the heatmap: without one, its share changes by less than {LITTLE}."
    else:
        share = explanation.region_share or 0.0
        yield (
            f"Of single tokens, {most.text.strip()!r} moves the heatmap most: {share:.0%} of it lies in the "
            f"{explanation.region}, without the token {share - effect:.0%}."
        )
    alike = agreement(measured)
    if alike is not None and alike < ALIKE:
        yield (
            f"The gradient orders the tokens otherwise than leaving them out does (rank correlation {alike:.2f}): "
            "trust what was measured by leaving out."
        )


def _heatmap(explanation: Explanation) -> Iterator[str]:
    original = explanation.original
    if not original.present:
        return
    if not original.objects:
        yield "No slot is confident of an object: the answer is that nothing fits."
        return
    if not original.before.any():
        peak = float(original.heatmap.max())
        left = "still finds something" if original.mask.any() else "finds nothing either"
        yield f"The heatmap is nowhere above 0.5 (its peak is {peak:.2f}); the decoder {left}."
        return
    if not explanation.has_decoder:
        yield "The model has no decoder stage: the mask is the heatmap."
        return
    changed = original.decoder_iou
    verb = "keeps" if changed >= GOOD else "changes" if changed >= BAD else "overrules"
    yield f"The decoder {verb} the heatmap: IoU {changed:.2f} between the masks before and after it."


def _changed_thoughts(explanation: Explanation) -> Iterator[str]:
    for other in explanation.counterfactuals:
        if other.completion is None or other.iou is None:
            continue
        if not explanation.original.present:
            found = f"covers {other.mask.mean():.1%} of the image" if other.mask.any() else "is empty"
            yield f"{_start(other)}, and with the concentration token after it, the mask {found}{_to_target(other)}."
            continue
        if not explanation.original.mask.any() and not other.mask.any():
            yield f"{_start(other)}, the mask is empty as well."
            continue
        verdict = (
            "the mask stays: this change of the thought does not matter"
            if other.iou >= GOOD
            else "the mask changes: the thought matters"
            if other.iou >= BAD
            else "the mask is another: the thought decides"
        )
        yield f"{_start(other)}, {verdict} (IoU {other.iou:.2f} with the answer{_to_target(other)})."


def _blame(explanation: Explanation) -> Iterator[str]:
    drawn = [one for one in explanation.counterfactuals if one.completion is None]
    for other in drawn:
        if other.name != TARGET and other.iou is not None:
            yield f"{_start(other)}, the mask has IoU {other.iou:.2f} with the answer{_to_target(other)}."
    original = explanation.original
    if explanation.target is None or original.iou_target is None:
        return
    perfect = next((one.iou_target for one in drawn if one.name == TARGET), None)
    before = original.before_iou_target
    if not original.present:
        if perfect is not None:
            yield f"Given the target as its heatmap, the decoder reaches IoU {perfect:.2f}."
    elif original.iou_target >= GOOD:
        yield f"The mask is right: IoU {original.iou_target:.2f} with the target (heatmap alone {before:.2f})."
    elif perfect is None:
        yield f"The mask has IoU {original.iou_target:.2f} with the target (heatmap alone {before:.2f})."
    elif perfect >= GOOD and before is not None and before < GOOD:
        yield (
            f"The mask falls short (IoU {original.iou_target:.2f} with the target) before the decoder: the heatmap "
            f"alone has {before:.2f}, and given the target as its heatmap the decoder reaches {perfect:.2f}. Look at "
            "thought and heatmap."
        )
    elif perfect >= GOOD:
        yield (
            f"The heatmap is right ({before:.2f}) and the decoder loses it ({original.iou_target:.2f}), though it "
            f"reaches {perfect:.2f} given the target as its heatmap."
        )
    else:
        yield (
            f"The decoder cannot cut out the target even from a perfect heatmap (IoU {perfect:.2f}): the mask "
            f"({original.iou_target:.2f}) is limited by decoder and features, not by the thought."
        )


def _start(reading: Reading) -> str:
    return f"{reading.name[0].upper()}{reading.name[1:]}"


def _to_target(reading: Reading) -> str:
    return "" if reading.iou_target is None else f", IoU {reading.iou_target:.2f} with the target"
