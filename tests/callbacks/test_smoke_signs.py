"""Counts over groups of completions, and over several slots."""

from __future__ import annotations

from dataclasses import replace

import torch

from callbacks.smoke_signs import Signs
from coprs_lightning.structures import NO_PRIOR_LOGIT
from tests.callbacks.tiny import GOOD, SILENT, TinySegmenter, loader


def outputs(count: int = 4):
    (batch,) = loader(range(count), count)
    with torch.no_grad():
        return batch, TinySegmenter().validation_step(batch, 0)


def test_several_completions_of_an_example_are_counted_each() -> None:
    batch, output = outputs(2)
    texts = [GOOD, SILENT, "", "<think> and then"]
    present = torch.tensor([[True], [False], [False], [False]])
    completions = replace(output.completions, texts=texts, truncated=torch.tensor([False, False, False, True]))
    logits = torch.randn(4, 1, 8, 8)
    signs = Signs()
    given = {"heatmap_logits": logits, "mask_logits": logits, "present": present, "completions": completions}
    signs.observe(batch, replace(output, **given))
    assert (signs.examples, signs.answers, signs.with_token, signs.well_formed) == (2, 4, 1, 1)
    assert (signs.truncated, signs.blank, signs.begun) == (1, 1, 2)
    assert (signs.flat_masks, signs.empty_masks, signs.full_masks) == (0, 0, 0)
    assert signs.texts == texts[:3]


def test_slots_that_are_not_there_do_not_count() -> None:
    batch, output = outputs(2)
    logits = torch.full((2, 3, 8, 8), NO_PRIOR_LOGIT)
    logits[0, 1] = torch.randn(8, 8)  # present, and not flat
    logits[1, 2] = -4.0  # present, flat, empty
    present = torch.tensor([[False, True, False], [False, False, True]])
    signs = Signs()
    given = {"heatmap_logits": logits, "mask_logits": logits, "present": present}
    signs.observe(batch, replace(output, **given))
    assert (signs.with_token, signs.flat_heatmaps, signs.flat_masks, signs.empty_masks) == (2, 1, 1, 1)
    signs.observe(batch, replace(output, **given, confidence_logits=torch.full((2, 3), -1.0)))
    assert (signs.doubted, signs.empty_masks) == (2, 1)  # doubt is no empty mask


def test_nothing_is_counted_where_nothing_is_present() -> None:
    batch, output = outputs(4)
    signs = Signs()
    signs.observe(batch, replace(output, present=torch.zeros(4, 1, dtype=torch.bool)))
    assert (signs.answers, signs.with_token, signs.empty_masks, signs.flat_masks) == (4, 0, 0, 0)


def test_features_are_remembered_by_their_largest_spread() -> None:
    signs = Signs()
    signs.see_features(torch.zeros(1, 2, 4, 4))
    assert signs.feature_std == 0
    signs.see_features(torch.randn(1, 2, 4, 4))
    signs.see_features(torch.ones(1, 2, 4, 4))
    assert signs.feature_std > 0.3
    signs.see_features(torch.zeros(3, 8))  # no grid: another kind of output
