"""Questions about one shape, several or none."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from coprs_lightning.policies.loading import SHIPPED
from datamodules.record_json import check_record
from datamodules.rle import decode_mask
from datamodules.synthetic import SEVERAL_SPLITS, SyntheticScenes, parse_thought, words
from datamodules.synthetic.draw import draw
from datamodules.synthetic.several import MOST, SEVERAL_SHARES
from datamodules.synthetic.sought import answers
from datamodules.synthetic.words import COLOURS, FORMS, HELD_OUT, SIZES


def asked(number: int = 250, split: str = "several"):
    for index in range(number):
        scene, questions = SyntheticScenes(0, split).compose(index)
        for question in questions:
            yield scene, question


def test_a_reader_finds_the_same_shapes():
    for scene, question in asked():
        named = [word for word in words(question.text) if word in (*COLOURS, *FORMS, *SIZES)]
        fitting = tuple(
            index
            for index, shape in enumerate(scene.shapes)
            if all(word in (shape.colour, shape.form, shape.size) for word in named)
        )
        assert fitting == question.targets, question
        assert len(fitting) in {"one": (1,), "several": (2, 3), "none": (0,)}[question.kind]


def test_thoughts_lead_to_the_shapes_and_do_not_count_them():
    for scene, question in asked(100):
        sought = parse_thought(question.thought)
        assert sought == question.sought
        assert answers(scene, sought) == question.targets
        assert question.thought.startswith("look for: ")
        assert sought.each == ("each" in words(question.text))


def test_the_words_do_not_give_the_number_away():
    """Every way of asking occurs with an answer and without, and "each" with any number."""
    numbers = {(question.sought.each, len(question.targets)) for _, question in asked()}
    assert numbers == {(True, n) for n in range(MOST + 1)} | {(False, 0), (False, 1)}
    pairs: dict[tuple[str, str], set[bool]] = {}
    for _, question in asked(1500):
        pair = (question.sought.colour, question.sought.form)
        assert pair not in HELD_OUT
        pairs.setdefault(pair, set()).add(bool(question.targets))
    assert sum(found == {True, False} for found in pairs.values()) > 0.95 * len(pairs)


def test_kinds_come_in_their_shares_and_all_words_are_known():
    kinds: Counter[str] = Counter()
    seen: set[str] = set()
    for _, question in asked(500):
        kinds[question.kind] += 1
        seen |= {*words(question.text), *words(question.thought)}
    for kind, share in SEVERAL_SHARES.items():
        assert kinds[kind] / 2000 == pytest.approx(share, abs=0.05), kind
    assert seen <= set((SHIPPED / "words.txt").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("split", SEVERAL_SPLITS)
def test_records_hold_a_mask_for_every_shape(split):
    scenes = SyntheticScenes(0, split, image_size=64)
    for index in range(20):
        scene, questions = scenes.compose(index)
        _, record = scenes.sample(index)
        check_record(record)
        _, masks = draw(scene)
        for target, question in zip(record.targets, questions, strict=True):
            assert len(target.masks) == len(question.targets)
            assert target.reasoning == question.thought
            for rle, number in zip(target.masks, question.targets, strict=True):
                np.testing.assert_array_equal(decode_mask(rle), masks[number])


def test_the_splits_differ_and_no_question_is_asked_twice():
    assert SyntheticScenes(0, "several").compose(0) != SyntheticScenes(0, "several_val").compose(0)
    for index in range(100):
        _, questions = SyntheticScenes(0, "several").compose(index)
        assert len({question.sought.noun for question in questions}) == len(questions)
