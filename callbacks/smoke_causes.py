"""The known causes of runs that do not work, each with its evidence and its remedy.

Most are what users of reasoning-segmentation code report again and again (blank masks, gIoU near 0, answers without the
special token), the others what goes wrong in half precision, in conversion and in normalisation. The order is from the
root to the symptom: spoiled data empties masks, and not the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from callbacks.smoke_signs import Signs
from callbacks.smoke_weights import PartWeights

_LEAST = 4
"""Examples of which "all" says something: one or two questions may have no target, or an empty answer."""


@dataclass(frozen=True)
class Situation:
    """What is known when a run is judged.

    Attributes:
        signs: of its first examples.
        weights: of its parts.
        trained: the weights should be able to answer: evaluation, a resumed run, or some hundred steps of training.
        taught: completions are written ones (teacher forcing), so that each must have its token.
        reinforced: completions are sampled to be rewarded.
    """

    signs: Signs
    weights: tuple[PartWeights, ...]
    trained: bool
    taught: bool = False
    reinforced: bool = False


@dataclass(frozen=True)
class Cause:
    """A cause.

    Attributes:
        name: in one word.
        says: the evidence in a situation, or ``None`` where the cause does not fit.
        remedy: what it is and what to do.
    """

    name: str
    says: Callable[[Situation], str | None]
    remedy: str


@dataclass(frozen=True)
class Finding:
    """A cause that fits.

    Attributes:
        name: of the cause.
        evidence: what was seen.
        remedy: what it is and what to do.
    """

    name: str
    evidence: str
    remedy: str


def findings(situation: Situation) -> list[Finding]:
    """The causes that fit, likeliest first."""
    found = [(cause, cause.says(situation)) for cause in CAUSES]
    return [Finding(cause.name, evidence, cause.remedy) for cause, evidence in found if evidence]


def _all(count: int, of: int, what: str, least: int = _LEAST) -> str | None:
    return f"all {of} {what}" if count == of >= least else None


def _no_targets(now: Situation) -> str | None:
    return _all(now.signs.empty_targets, now.signs.examples, "ground-truth masks are empty")


def _full_targets(now: Situation) -> str | None:
    return _all(now.signs.full_targets, now.signs.examples, "ground-truth masks cover the whole image")


def _constant_frames(now: Situation) -> str | None:
    return _all(now.signs.constant_frames, now.signs.examples, "images are of one colour", least=2)


def _normalisation(now: Situation) -> str | None:
    mean, std = now.signs.pixel_mean, now.signs.pixel_std
    if math.isnan(std) or now.signs.constant_frames or (0.05 <= std <= 20 and abs(mean) <= 10):
        return None
    return f"normalised pixels have mean {mean:.3g} and deviation {std:.3g}, where about 0 and 1 are usual"


def _missing_weights(now: Situation) -> str | None:
    counts = [
        f"{part.slot}: {part.loading['loaded']} loaded, {part.loading['missing']} missing, "
        f"{part.loading['unexpected']} unexpected"
        for part in now.weights
        if part.loading is not None and (part.loading["missing"] or not part.loading["loaded"])
    ]
    return f"keys of pretrained weights: {'; '.join(counts)}" if counts else None


def _random_weights(now: Situation) -> str | None:
    slots = [part.slot for part in now.weights if part.untouched and (part.frozen or now.trained)]
    frozen = all(part.frozen for part in now.weights if part.slot in slots)
    if not slots:
        return None
    return f"model.{', model.'.join(slots)} {'(frozen) ' if frozen else ''}still at random initial weights"


def _zero_weights(now: Situation) -> str | None:
    slots = [part.slot for part in now.weights if part.zero]
    return f"all weights of model.{', model.'.join(slots)} are 0" if slots else None


def _not_finite(now: Situation) -> str | None:
    count, of = now.signs.spoiled, now.signs.answers
    weights = [f"model.{part.slot}.{name}" for part in now.weights for name in part.spoiled[:2]]
    held = f"; weights that are not finite: {', '.join(weights[:4])}" if weights else ""
    return (
        f"{count} of {of} answers have logits that are NaN or infinite, and read as empty masks{held}"
        if count
        else None
    )


def _flat_features(now: Situation) -> str | None:
    spread = now.signs.feature_std
    return f"features are the same everywhere in an image (deviation {spread:.1g})" if spread < 1e-6 else None


def _taught_without(now: Situation) -> str | None:
    lacking = now.signs.answers - now.signs.with_token
    return (
        f"{lacking} of {now.signs.answers} written completions have no concentration token"
        if (now.taught and lacking)
        else None
    )


def _wrote(signs: Signs) -> str:
    shown = next((text for text in signs.texts if text.strip()), "")
    return f" (the first: {shown[:80]!r})" if shown else " (they are blank)"


def _cut_off(now: Situation) -> str | None:
    signs = now.signs
    lacking = signs.answers - signs.with_token
    if now.taught or not (now.trained or now.reinforced) or signs.answers < _LEAST:
        return None
    if lacking < 0.5 * signs.answers or min(signs.truncated, signs.begun) < 0.9 * lacking:
        return None  # what does not even begin a thought was not going to end with a token
    return f"{lacking} of {signs.answers} completions were cut at the length limit before the concentration token"


def _never_written(now: Situation) -> str | None:
    signs = now.signs
    if now.taught or not (now.trained or now.reinforced) or _cut_off(now):
        return None
    evidence = _all(signs.answers - signs.with_token, signs.answers, "completions have no concentration token")
    return evidence + _wrote(signs) if evidence else None


def _malformed(now: Situation) -> str | None:
    signs = now.signs
    if not now.trained or now.taught or signs.answers < _LEAST or signs.well_formed >= 0.5 * signs.answers:
        return None
    if _never_written(now) or _cut_off(now):
        return None
    return f"only {signs.well_formed} of {signs.answers} completions keep the format{_wrote(signs)}"


def _flat_heatmaps(now: Situation) -> str | None:
    return _all(now.signs.flat_heatmaps, now.signs.with_token, "heatmaps are the same everywhere", least=2)


def _alike_heatmaps(now: Situation) -> str | None:
    signs = now.signs
    if not now.trained or signs.flat_heatmaps == signs.with_token:
        return None
    return _all(signs.alike, signs.compared, "pairs of questions about one image have the same heatmap", least=2)


def _flat_masks(now: Situation) -> str | None:
    if now.signs.flat_heatmaps == now.signs.with_token:
        return None
    return _all(now.signs.flat_masks, now.signs.with_token, "mask logits are one number, the heatmaps are not", least=2)


def _doubted(now: Situation) -> str | None:
    if not now.trained or now.signs.empty_targets:
        return None
    return _all(now.signs.doubted, now.signs.with_token, "answers say that nothing fits, and something does")


def _empty_masks(now: Situation) -> str | None:
    if not now.trained:
        return None
    return _all(now.signs.empty_masks, now.signs.with_token, "masks are empty, though the token is there")


def _full_masks(now: Situation) -> str | None:
    if not now.trained:
        return None
    return _all(now.signs.full_masks, now.signs.with_token, "masks cover the whole image")


CAUSES = (
    Cause(
        "no targets",
        _no_targets,
        "The data has no ground truth: the wrong split or annotation file, or a conversion that lost the masks. Look "
        "at it with `coprs data inspect FOLDER`, and convert it anew.",
    ),
    Cause(
        "inverted targets",
        _full_targets,
        "The masks are probably inverted, or hold class numbers of which all count. Look at them with `coprs data "
        "inspect FOLDER`, and convert with the right value for the object.",
    ),
    Cause(
        "blank images",
        _constant_frames,
        "The images were not read: broken or empty files, or alpha without colour. Look at them with `coprs data "
        "inspect FOLDER`.",
    ),
    Cause(
        "normalisation",
        _normalisation,
        "Mean and deviation do not fit the pixels, which they are for as numbers in [0, 1] (0.485, not 123.7). Leave "
        "model.backbone.init_args.mean and std out: the backbone knows what its weights were trained with.",
    ),
    Cause(
        "missing weights",
        _missing_weights,
        "The checkpoint does not belong to this model, or is cut off. Fetch it anew, or name the one that the "
        "architecture was built for.",
    ),
    Cause(
        "zero weights",
        _zero_weights,
        "They were never initialised or were overwritten, and what they compute is constant. Name a checkpoint that "
        "holds the part, or leave the part's weights to its constructor.",
    ),
    Cause(
        "random weights",
        _random_weights,
        "They were never loaded: a checkpoint without this part, one that loaded without being strict, or none at all. "
        "Evaluate with --ckpt_path RUN; start training with model.init_from; give a frozen part its pretrained weights "
        "(pretrained, random_weights: false), or train it (frozen: false).",
    ),
    Cause(
        "not finite",
        _not_finite,
        "Half precision overflows, or the checkpoint was written after the loss had turned to NaN. Use "
        "trainer.precision bf16-mixed or 32-true instead of 16-mixed, or an earlier checkpoint.",
    ),
    Cause(
        "flat features",
        _flat_features,
        "The image backbone sees nothing: its weights, its normalisation, or precomputed features of something else. "
        "Set pretrained weights, or compute the features anew.",
    ),
    Cause(
        "token not taught",
        _taught_without,
        "The prompt's completion has lost the token, or the tokenizer takes it apart. Keep <REF_POS> in "
        "model.policy.init_args.prompt.completion, and do not replace the tokenizer by one without it.",
    ),
    Cause(
        "cut off",
        _cut_off,
        "Thoughts are longer than the limit. Raise model.generation.max_new_tokens (in reinforcement "
        "model.objective.init_args.rollout.init_args.max_new_tokens).",
    ),
    Cause(
        "token never written",
        _never_written,
        "The policy never learnt the format, or its weights or its prompt are others than in training: evaluate with "
        "--ckpt_path RUN, keep the prompt that it was trained with, and before reinforcement teach the format by "
        "supervised training (model.init_from). Without tokens there are no masks, and all rewards are alike.",
    ),
    Cause(
        "malformed",
        _malformed,
        "The policy half learnt the format, or the prompt differs from that of training. Compare "
        "model.policy.init_args.prompt with the one trained with, or train longer.",
    ),
    Cause(
        "flat heatmaps",
        _flat_heatmaps,
        "Query and features do not meet: the heatmap head's weights are missing or 0, or its input is constant. Load a "
        "checkpoint that holds model.heatmap_head, and look at the backbone's normalisation.",
    ),
    Cause(
        "deaf heatmaps",
        _alike_heatmaps,
        "The heatmap does not depend on the question: the aggregator's or the head's weights are missing, or the "
        "concentration token is read from the wrong place. Load a checkpoint that holds model.aggregator and "
        "model.heatmap_head.",
    ),
    Cause(
        "dead decoder",
        _flat_masks,
        "The decoder ignores its input: its weights are missing or 0. Load a checkpoint that holds model.decoder, or "
        "set model.decoder.init_args.pretrained.",
    ),
    Cause(
        "no confidence",
        _doubted,
        "The confidences were not trained, or on data where nothing ever fits. Train on questions with and without an "
        "object, or use one concentration token (prompt.num_tokens: 1).",
    ),
    Cause(
        "empty masks",
        _empty_masks,
        "The decoder has not learnt or its weights do not belong to this backbone: masks need some hundred steps, and "
        "a learning rate that is not 0 (lr/decoder in the logs). Compare model.backbone and model.decoder with the "
        "config of the checkpoint.",
    ),
    Cause(
        "full masks",
        _full_masks,
        "The threshold or the sign is wrong, or the decoder's weights do not belong to this backbone: masks are logits "
        "above 0. Compare model.backbone and model.decoder with the config of the checkpoint.",
    ),
)
"""In the order in which they are told."""
