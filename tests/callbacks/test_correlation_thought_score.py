"""Thoughts scored by the facts they state: right, partly right, wrong, empty and rambling ones."""

from __future__ import annotations

import pytest

from callbacks.correlation_thought_score import facts_of, score_thought, stated_facts
from datamodules.synthetic.samples import SyntheticScenes
from datamodules.synthetic.sought import parse_thought

BESIDE = "anchor: blue square. look for: red circle left of it."
KNOWN = "ripe tomato means red. look for: big red circle."
LEFT_OUT = "leave out red and blue. look for: star, not red, not blue."


def value(thought: str, written: str) -> float:
    score = score_thought(thought, written)
    assert score is not None
    return score.value


@pytest.mark.parametrize("split", ["train", "generalisation", "several"])
def test_every_written_thought_is_right_and_another_questions_is_not(split: str) -> None:
    scenes = SyntheticScenes(0, split)
    others = 0
    for index in range(40):
        _, questions = scenes.compose(index)
        for question in questions:
            assert value(question.thought, question.thought) == 1
            assert stated_facts(question.thought) == facts_of(question.sought)
            for other in questions:
                if other.sought != question.sought:
                    others += 1
                    assert value(other.thought, question.thought) < 1
    assert others > 50


@pytest.mark.parametrize(
    ("thought", "written"),
    [
        ("the red circle to the left of the blue square", BESIDE),
        ("Anchor: BLUE square.  Look for: red circles left of it.", BESIDE),
        ("I am looking for a red circle; so look for: red circle left of the blue square", BESIDE),
        ("A tomato is red, so I want the largest red circle.", KNOWN),
        ("a star which is neither red nor blue", LEFT_OUT),
        ("any star except the red and the blue one", LEFT_OUT),
        ("the green shape in the upper left part", "the place decides. look for: green shape, top left."),
        ("the cross in the centre", "the place decides. look for: cross, middle."),
        ("a white triangle on the right side of the image", "the place decides. look for: white triangle, right."),
        ("both small stars", "look for: both small stars."),
    ],
)  # fmt: skip
def test_other_words_for_the_same_facts_are_right(thought: str, written: str) -> None:
    assert value(thought, written) == 1


@pytest.mark.parametrize(
    ("thought", "written", "f1"),
    [
        ("look for: red circle left of it.", BESIDE, 2 * 3 / (3 + 5)),  # the anchor is missing
        ("anchor: blue star. look for: red circle above it.", BESIDE, 2 * 3 / (5 + 5)),  # its form and the side wrong
        ("anchor: red circle. look for: blue square left of it.", BESIDE, 2 * 1 / (5 + 5)),  # the roles exchanged
        ("ripe tomato means orange. look for: big red circle.", KNOWN, 2 * 3 / (4 + 3)),  # a wrong step to a right end
        ("look for: red circle.", KNOWN, 2 * 2 / (2 + 3)),  # the size is missing
        ("look for: big red square.", KNOWN, 2 * 2 / (3 + 3)),
        ("leave out red. look for: star, not red.", LEFT_OUT, 2 * 2 / (2 + 3)),
        ("look for: red and blue star.", LEFT_OUT, 2 * 1 / (3 + 3)),  # what was to be left out is sought
        ("look for: star, left.", "the place decides. look for: star, top left.", 2 * 1 / (2 + 2)),
    ],
)
def test_partly_right_thoughts_are_worth_their_facts(thought: str, written: str, f1: float) -> None:
    assert value(thought, written) == pytest.approx(f1)


def test_what_is_missing_and_what_is_wrong_is_told() -> None:
    score = score_thought("anchor: blue star. look for: red circle.", BESIDE)
    assert score is not None
    assert score.right == {("anchor colour", "blue"), ("colour", "red"), ("form", "circle")}
    assert score.missing == {("anchor form", "square"), ("relation", "left of")}
    assert score.wrong == {("anchor form", "star")}


@pytest.mark.parametrize("thought", ["look for: green cross, bottom.", "anchor: green star. look for: white cross."])
def test_wrong_thoughts_are_worth_nothing(thought: str) -> None:
    assert value(thought, BESIDE) == 0


@pytest.mark.parametrize("thought", ["", "   ", "\n.", "I do not know.", "look for:", "<script>", "? ? ?"])
def test_empty_thoughts_are_worth_nothing(thought: str) -> None:
    assert value(thought, BESIDE) == 0


def test_rambling_does_not_pay() -> None:
    everything = "red orange yellow green blue purple white black circle square triangle star cross small big left top"
    assert value(f"look for: {everything}.", "look for: red circle.") < 0.3
    assert value(everything, "look for: red circle.") < 0.3
    hedged = "look for: red circle. look for: blue square. look for: green star. look for: white cross."
    assert value(hedged, "look for: red circle.") == pytest.approx(2 * 2 / (8 + 2))
    # what only leads to the conclusion is not held against it
    chatty = "I see a blue square and a green star on the left. there are many shapes. look for: red circle."
    assert value(chatty, "look for: red circle.") == 1
    assert value("look for: red circle. " * 200, "look for: red circle.") == 1


def test_without_a_written_thought_nothing_is_known() -> None:
    assert score_thought("look for: red circle.", None) is None
    assert score_thought("look for: red circle.", "the one that floats") is None
    assert parse_thought(BESIDE) is not None
