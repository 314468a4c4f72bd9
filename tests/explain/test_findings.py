from __future__ import annotations

import numpy as np
import pytest

from coprs_lightning.explain.explanation import BOX, OTHER_THOUGHT, TARGET, WITHOUT_THOUGHT
from coprs_lightning.explain.findings import findings
from coprs_lightning.explain.words import Word
from tests.explain.build import explanation, reading, square

EMPTY = np.zeros((8, 8), dtype=bool)


def said(**options) -> str:
    return "\n".join(findings(explanation(**options)))


def with_target(iou: float, before: float, perfect: float | None, **options) -> str:
    drawn = [] if perfect is None else [reading(TARGET, completion=None, iou=0.5, iou_target=perfect)]
    original = reading(iou_target=iou, before_iou_target=before, **options)
    return said(original=original, counterfactuals=drawn, target=square(8, 0, 4))


def test_no_token():
    gone = reading(mask=EMPTY, present=False, objects=0)
    assert said(original=gone).startswith("The completion has no concentration token: there is no heatmap")
    assert "because the length limit cut it (--max-new-tokens)" in said(original=gone, truncated=True)
    other = reading(WITHOUT_THOUGHT, iou=0.0, iou_target=0.9)
    text = said(original=gone, counterfactuals=[other])
    assert "Without the thought, and with the concentration token after it, the mask covers 50.0%" in text
    text = with_target(0.0, 0.0, 0.8, present=False, mask=EMPTY)
    assert "Given the target as its heatmap, the decoder reaches IoU 0.80." in text
    assert "falls short" not in text


def test_too_many_tokens():
    assert "has 3 concentration tokens; the last 2 count" in said(num_tokens=3, num_slots=2)


def test_unsure_words():
    words = [Word(" red", 1, "thought", 0.4, 1.0), Word(" blue", 2, "thought", 0.3, 1.0), Word("x", 3, "other", 0.01)]
    assert "is 'blue' (0.30; 2 below 0.5)" in said(words=words)
    assert "least probable" not in said()


def test_the_word_that_matters():
    words = [Word(f" w{i}", i, "thought", 1.0, 0.0, float(i), -float(i) / 10) for i in range(5)]
    text = said(words=words)
    assert "'w4' moves the heatmap most: 80% of it lies in the mask, without the token 120%" in text
    assert "rank correlation -1.00): trust what was measured" in text
    assert "No single token" in said(words=[Word(" w", 1, "thought", 1.0, 0.0, 1.0, 0.01)])


@pytest.mark.parametrize(
    ("before", "verb"), [(square(8, 0, 4), "keeps"), (square(8, 2, 4), "changes"), (square(8, 7, 8), "overrules")]
)
def test_the_decoder(before, verb):
    assert f"The decoder {verb} the heatmap" in said(original=reading(before=before))


def test_heatmaps_that_are_empty():
    assert "nothing fits" in said(original=reading(mask=EMPTY, objects=0))
    assert "(its peak is 0.90); the decoder still finds something" in said(original=reading(before=EMPTY))
    assert "finds nothing either" in said(original=reading(mask=EMPTY))
    assert "no decoder stage" in said(has_decoder=False)


@pytest.mark.parametrize(
    ("iou", "verdict"), [(0.9, "does not matter"), (0.6, "the thought matters"), (0.2, "the thought decides")]
)
def test_other_thoughts(iou, verdict):
    text = said(counterfactuals=[reading(OTHER_THOUGHT, iou=iou)])
    assert "With another thought, the mask" in text
    assert verdict in text
    empty = [reading(OTHER_THOUGHT, mask=EMPTY, iou=1.0)]
    assert "the mask is empty as well" in said(original=reading(mask=EMPTY), counterfactuals=empty)


def test_boxes():
    text = said(counterfactuals=[reading(BOX, completion=None, iou=0.25, iou_target=0.5)])
    assert "With a box as the heatmap, the mask has IoU 0.25 with the answer, IoU 0.50 with the target." in text


def test_whose_fault_it_is():
    assert "The mask is right: IoU 0.80" in with_target(0.8, 0.7, 0.9)
    assert "falls short (IoU 0.30 with the target) before the decoder" in with_target(0.3, 0.4, 0.9)
    assert "The heatmap is right (0.80) and the decoder loses it (0.30)" in with_target(0.3, 0.8, 0.9)
    assert "cannot cut out the target even from a perfect heatmap (IoU 0.40)" in with_target(0.3, 0.3, 0.4)
    assert "The mask has IoU 0.30 with the target (heatmap alone 0.30)" in with_target(0.3, 0.3, None)
