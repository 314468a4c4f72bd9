"""Thoughts are read back and compared by what they seek."""

from __future__ import annotations

import pytest

from datamodules.synthetic import Sought, parse_thought, thought_is_right
from datamodules.synthetic.scene import Scene, Shape
from datamodules.synthetic.sought import answers

ANCHOR = Sought(form="square", colour="blue")


@pytest.mark.parametrize(
    ("sought", "phrase"),
    [
        (Sought(colour="yellow"), "look for: yellow shape."),
        (Sought(form="circle", size="big"), "look for: big circle."),
        (Sought(colour="green", place="top left"), "look for: green shape, top left."),
        (Sought(excluded=("red", "blue")), "look for: shape, not red, not blue."),
        (Sought(form="cross", colour="red", both=True), "look for: both red crosses."),
        (Sought(form="cross", colour="red", each=True), "look for: each red cross."),
        (Sought(form="star", relation="left of", anchor=ANCHOR), "anchor: blue square. look for: star left of it."),
    ],
)
def test_phrases_and_their_way_back(sought: Sought, phrase: str) -> None:
    assert sought.phrase == phrase
    assert parse_thought(f"something first. {phrase}") == sought


@pytest.mark.parametrize(
    "thought",
    [
        "",
        "the red circle.",
        "look for: circle red.",
        "look for: pink circle.",
        "look for: red circles.",
        "look for: both red circle.",
        "look for: each red circles.",
        "look for: both each red circle.",
        "look for: circle, centre.",
        "look for: star left of it.",
        "anchor: blue square. look for: star.",
        "anchor: big blue square. look for: star left of it.",
        "anchor: nothing. look for: star left of it.",
    ],
)
def test_what_breaks_the_grammar_seeks_nothing(thought: str) -> None:
    assert parse_thought(thought) is None
    assert not thought_is_right(thought, "look for: star.")


def test_a_thought_is_right_when_it_seeks_the_same() -> None:
    written = "ripe banana means yellow. look for: yellow star."
    assert thought_is_right(written, written)
    assert thought_is_right("  Banana ... so LOOK for:  yellow star", written)
    assert thought_is_right("look for: red star. no, look for: yellow star.", written)
    assert thought_is_right("look for: shape, not blue, not red.", "look for: shape, not red, not blue.")
    assert not thought_is_right("ripe banana means yellow. look for: red star.", written)
    assert not thought_is_right("look for: yellow shape.", written)
    assert not thought_is_right("look for: star above it.", written)
    beside = "anchor: red circle. look for: shape above it."
    assert thought_is_right(beside, beside)
    assert not thought_is_right("anchor: red square. look for: shape above it.", beside)


def _scene(*places: tuple[float, float]) -> Scene:
    return Scene(100, 100, tuple(Shape("red", "star", "small", x, y, 9.0, 0.0, (200, 0, 0)) for x, y in places), 0)


def test_doubtful_places_give_no_answer() -> None:
    left = Sought(place="left")
    assert answers(_scene((20, 50), (80, 50)), left) == (0,)
    assert answers(_scene((20, 50), (30, 50)), left) == (0, 1)
    assert answers(_scene((20, 50), (50, 50)), left) is None
    middle = Sought(place="middle")
    assert answers(_scene((50, 55), (20, 50)), middle) == (0,)
    assert answers(_scene((50, 55), (32, 50)), middle) is None
    assert answers(_scene((20, 20), (80, 20), (20, 80)), Sought(place="top left")) == (0,)


def test_relations_need_a_clear_side_and_a_single_anchor() -> None:
    def beside(x: float, y: float) -> tuple[int, ...] | None:
        anchor = Shape("blue", "square", "small", 50.0, 50.0, 9.0, 0.0, (0, 0, 200))
        scene = _scene((x, y))
        return answers(Scene(100, 100, (*scene.shapes, anchor), 0), Sought(relation="left of", anchor=ANCHOR))

    assert beside(20, 50) == (0,)
    assert beside(80, 50) == ()
    assert beside(40, 20) is None  # rather above than left
    assert beside(45, 50) is None
    assert answers(_scene((20, 50)), Sought(relation="left of", anchor=ANCHOR)) is None  # no anchor at all
