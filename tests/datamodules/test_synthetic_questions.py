"""Every written question is read again, word by word and by plain geometry, without the generator's own logic."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from datamodules.synthetic import (
    REINFORCE_SPLITS,
    SEVERAL_SPLITS,
    SPLITS,
    SyntheticScenes,
    parse_thought,
    vocabulary,
    words,
)
from datamodules.synthetic.questions import DEFAULT_SHARES, REINFORCE_SHARES
from datamodules.synthetic.scene import Scene, Shape
from datamodules.synthetic.sought import answers

MEANINGS = {
    **dict.fromkeys(("tomato", "strawberry", "fire", "blood"), "red"),
    **dict.fromkeys(("carrot", "pumpkin", "tangerine", "basketball"), "orange"),
    **dict.fromkeys(("banana", "lemon", "sunflower", "chick"), "yellow"),
    **dict.fromkeys(("grass", "frog", "cucumber", "leaves"), "green"),
    **dict.fromkeys(("clear", "sea", "jeans"), "blue"),
    **dict.fromkeys(("eggplant", "lavender", "plum"), "purple"),
    **dict.fromkeys(("snow", "milk", "polar", "salt"), "white"),
    **dict.fromkeys(("coal", "raven", "night"), "black"),
    **dict.fromkeys(("wheel", "coin", "moon", "plate"), "circle"),
    **dict.fromkeys(("board", "dice", "tile"), "square"),
    **dict.fromkeys(("pizza", "pyramid", "party"), "triangle"),
    **dict.fromkeys(("starfish", "sheriff", "christmas"), "star"),
    **dict.fromkeys(("aid", "plus", "hospital"), "cross"),
}
UNFAMILIAR = {
    **dict.fromkeys(("tomato", "engine"), "red"),
    **dict.fromkeys(("pumpkin", "tangerine"), "orange"),
    **dict.fromkeys(("lemon", "banana"), "yellow"),
    **dict.fromkeys(("frog", "mown"), "green"),
    **dict.fromkeys(("jacket", "worn"), "blue"),
    **dict.fromkeys(("cake", "soap"), "purple"),
    **dict.fromkeys(("glass", "roof"), "white"),
    **dict.fromkeys(("lump", "feathers"), "black"),
    **dict.fromkeys(("plate", "bike"), "circle"),
    **dict.fromkeys(("bathroom", "kitchen"), "square"),
    **dict.fromkeys(("piece", "birthday"), "triangle"),
    **dict.fromkeys(("pin", "police"), "star"),
    **dict.fromkeys(("ambulance", "kit"), "cross"),
}
"""A word of each fact that tells it from the others."""
PROPERTIES = {
    *("small", "big", "red", "orange", "yellow", "green", "blue", "purple", "white", "black"),
    *("circle", "square", "triangle", "star", "cross"),
}
SINGULAR = {"circles": "circle", "squares": "square", "triangles": "triangle", "stars": "star", "crosses": "cross"}
SIDES = {"left": "left", "right": "right", "top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
RELATION = re.compile(r"(.*) (?:to the )?(left of|right of|above|higher than|below|lower than) the (.*)")


def test_every_question_has_exactly_the_answer_that_a_reader_finds() -> None:
    shares = {**DEFAULT_SHARES, "both": 0.05, "relation": 0.15}
    kinds: Counter[str] = Counter()
    for split in set(SPLITS) - set(SEVERAL_SPLITS):
        scenes = SyntheticScenes(3, split, shares=None if split in REINFORCE_SPLITS else shares)
        for index in range(80):
            scene, questions = scenes.compose(index)
            for question in questions:
                assert _read(scene, question.text) == {scene.shapes[target] for target in question.targets}, question
                assert len(question.targets) == (2 if question.kind == "both" else 1)
                kinds[question.kind] += 1
    assert set(kinds) == {*shares, "unfamiliar"}
    assert min(kinds.values()) > 30


def test_thoughts_lead_to_the_target_and_are_short() -> None:
    for index in range(200):
        scene, questions = SyntheticScenes(0, "train").compose(index)
        for question in questions:
            sought = parse_thought(question.thought)
            assert sought is not None
            assert answers(scene, sought) == question.targets
            assert sum(word.isalpha() for word in words(question.thought)) <= 20


def test_no_two_questions_about_an_image_seek_the_same() -> None:
    for index in range(100):
        _, questions = SyntheticScenes(0, "val").compose(index)
        assert len({question.sought for question in questions}) == len(questions)


def test_kinds_come_in_their_shares() -> None:
    kinds: Counter[str] = Counter()
    for index in range(500):
        kinds.update(question.kind for question in SyntheticScenes(0, "train").compose(index)[1])
    for kind, share in DEFAULT_SHARES.items():
        assert kinds[kind] / 2000 == pytest.approx(share, abs=0.05), kind


def test_splits_to_learn_from_reward_ask_by_unfamiliar_facts_only() -> None:
    kinds: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for split in REINFORCE_SPLITS:
        for index in range(300):
            for question in SyntheticScenes(0, split).compose(index)[1]:
                tokens = words(question.text)
                assert question.kind != "knowledge"
                assert (question.kind == "unfamiliar") is bool(set(UNFAMILIAR) & set(tokens)), question.text
                kinds[question.kind] += 1
                asked.update(set(UNFAMILIAR) & set(tokens))
    for kind, share in REINFORCE_SHARES.items():
        assert kinds[kind] / 2400 == pytest.approx(share, abs=0.05), kind
    assert set(asked) == set(UNFAMILIAR)
    assert min(asked.values()) > 20


def test_other_kinds_keep_their_proportions_in_the_splits_to_learn_from_reward() -> None:
    assert sum(REINFORCE_SHARES.values()) == pytest.approx(1)
    for kind in set(DEFAULT_SHARES) - {"knowledge"}:
        assert REINFORCE_SHARES[kind] == pytest.approx(DEFAULT_SHARES[kind] * 0.4 / 0.8), kind


def test_vocabulary_is_small_and_complete() -> None:
    known = vocabulary()
    assert len(known) <= 250
    assert known == sorted(set(known))
    seen: set[str] = set()
    shares = {**DEFAULT_SHARES, "both": 0.1}
    for split, number in (("train", 400), ("generalisation", 40)):
        for index in range(number):
            for question in SyntheticScenes(1, split, shares=shares).compose(index)[1]:
                seen |= {*words(question.text), *words(question.thought)}
    assert seen <= set(known)
    assert len(set(known) - seen) <= 8  # nearly every word is really used


def test_training_uses_every_word_of_the_generalisation_split() -> None:
    used: dict[str, set[str]] = {}
    for split, number in (("train", 1000), ("generalisation", 60)):
        scenes = SyntheticScenes(0, split)
        texts = [text for index in range(number) for q in scenes.compose(index)[1] for text in (q.text, q.thought)]
        used[split] = {word for text in texts for word in words(text)}
    assert used["generalisation"] <= used["train"]


def _read(scene: Scene, text: str) -> set[Shape]:
    """The shapes that a reader would point at."""
    text = text.lower().rstrip("?.")
    shapes = list(scene.shapes)
    if match := RELATION.fullmatch(text):
        found = _having(shapes, words(match[1]))
        (anchor,) = _having(shapes, words(match[3]))
        return {shape for shape in found if _lies(match[2], shape, anchor, 0.02 * max(scene.width, scene.height))}
    tokens = words(text)
    found = _having(shapes, tokens)
    if "two" in tokens:
        assert len(found) == 2, text
    if more := {"bigger", "biggest", "smaller", "smallest"} & set(tokens):
        ranked = sorted(found, key=lambda shape: shape.radius, reverse=bool(more & {"bigger", "biggest"}))
        ratio = ranked[0].radius / ranked[1].radius
        assert max(ratio, 1 / ratio) > 1.5, f"{text}: a near tie"
        assert ("bigger" not in more and "smaller" not in more) or len(ranked) == 2
        return {ranked[0]}
    if {"middle", "centre"} & set(tokens):
        return {s for s in found if max(abs(s.x / scene.width - 0.5), abs(s.y / scene.height - 0.5)) < 0.2}
    for side in {SIDES[token] for token in tokens if token in SIDES}:
        found = [shape for shape in found if _half(side, shape, scene)]
    return set(found)


def _having(shapes: list[Shape], tokens: list[str]) -> list[Shape]:
    """Shapes with every property named, facts included, and with none that follows "not", "neither" or "nor"."""
    for place, token in enumerate(tokens):
        word = {**MEANINGS, **UNFAMILIAR, **SINGULAR}.get(token, token)
        if word not in PROPERTIES:
            continue
        before = [earlier for earlier in tokens[max(place - 2, 0) : place] if earlier != "a"]
        denied = bool(before) and before[-1] in ("not", "neither", "nor")
        shapes = [shape for shape in shapes if (word in (shape.colour, shape.form, shape.size)) is not denied]
    return shapes


def _half(side: str, shape: Shape, scene: Scene) -> bool:
    across, down = shape.x / scene.width, shape.y / scene.height
    return {"left": across < 0.5, "right": across > 0.5, "top": down < 0.5, "bottom": down > 0.5}[side]


def _lies(relation: str, shape: Shape, anchor: Shape, least: float) -> bool:
    right, down = shape.x - anchor.x, shape.y - anchor.y
    way = {
        "left of": -right,
        "right of": right,
        "above": -down,
        "higher than": -down,
        "below": down,
        "lower than": down,
    }
    return way[relation] > least
