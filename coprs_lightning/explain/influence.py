"""Every token of an answer with its probability and its influence on the heatmap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from coprs_lightning.explain.case import Case, evaluated
from coprs_lightning.explain.gradients import left_out, region_on_grid, word_gradient
from coprs_lightning.explain.words import Word, parts_of, texts_of
from coprs_lightning.structures import Completions, SegmentationOutput


def words_of(
    case: Case,
    completions: Completions,
    output: SegmentationOutput,
    region: np.ndarray | None,
    slots: Sequence[int],
    leave_out: int,
) -> tuple[list[Word], list[Word], float | None]:
    """Tokens of the completion and of the prompt.

    Args:
        case: image and question.
        completions: one completion.
        output: of the pass over it.
        region: (H, W) bool, where the heatmap is wanted; ``None`` for no influence.
        slots: of the heatmaps whose union counts; none for no influence.
        leave_out: most tokens of the thought that are left out.

    Returns:
        words of the completion, words of the prompt without the image's and padding, and the share of the heatmap's
        probability inside the region.
    """
    words = _written(case, completions, output)
    ids = case.prompts.input_ids[0]
    kept = [
        column
        for column in range(len(ids))
        if case.prompts.attention_mask[0, column] and not output.policy.image_mask[0, column]
    ]
    texts = texts_of(case.model.policy, [int(ids[column]) for column in kept])
    prompt = [Word(text, int(ids[column]), "prompt") for text, column in zip(texts, kept, strict=True)]
    if region is None or not slots:
        return words, prompt, None
    wanted = region_on_grid(case, torch.from_numpy(region))
    gradient = word_gradient(case, completions, wanted, slots)
    words = [replace(w, gradient=g) for w, g in zip(words, gradient.completion.tolist(), strict=False)]
    prompt = [replace(w, gradient=float(gradient.prompt[column])) for w, column in zip(prompt, kept, strict=True)]
    positions = [i for i, word in enumerate(words) if word.part == "thought"][: max(0, leave_out)]
    for position, share in zip(positions, left_out(case, completions, positions, wanted, slots), strict=True):
        words[position] = replace(words[position], left_out=gradient.share - share)
    return words, prompt, gradient.share


def agreement(words: Sequence[Word]) -> float | None:
    """Rank correlation (Spearman) of the two influences, over the words that have both.

    Near 1 the gradient orders words as leaving them out does. ``None`` for less than four, or without differences.
    """
    from scipy.stats import spearmanr

    both = [(word.gradient, word.left_out) for word in words if word.gradient is not None and word.left_out is not None]
    if len(both) < 4 or any(len(set(values)) == 1 for values in zip(*both, strict=True)):
        return None
    return float(spearmanr(*zip(*both, strict=True)).statistic)


def _written(case: Case, completions: Completions, output: SegmentationOutput) -> list[Word]:
    with torch.no_grad(), evaluated(case.model):
        values = case.model.policy.log_probs(output.policy, completions)
    ids = completions.ids[0][completions.mask[0]].tolist()
    texts = texts_of(case.model.policy, ids)
    probabilities, entropies = values.log_probs[0].exp().tolist(), values.entropy[0].tolist()
    return [
        Word(text, token, part, probability, entropy)
        for text, token, part, probability, entropy in zip(
            texts, ids, parts_of(texts), probabilities[: len(ids)], entropies[: len(ids)], strict=True
        )
    ]
