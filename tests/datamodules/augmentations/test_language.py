"""Sentences in the manner of RefCOCO, RefCOCO+, RefCOCOg and ReasonSeg."""

from __future__ import annotations

import pytest

from coprs_lightning.structures import Example
from datamodules.augmentations.language import colour_word, place_word, side_word, texts_of
from tests.datamodules.augmentations.examples import make_example

SIDED = [
    "lft guy",
    "rt",
    "2nd from l",
    "guy in blue on r",
    "left",
    "leftmost zebra",
    "left-most zebra",
    "topleft cow",
    "bottomright pizza",
    "upper left corner",
    "righthand man",
    "the man right now standing",
    "woman in the rigth chair",
    "guy on teh lefft",
    "lef elephant",
    "rihgt bus",
    "man at far rigt",
    "giraffe in back rt",
    "bl bowl",
    "person on rhs",
    "his left hand",
    "left-handed batter",
    "western building",
    "the hill to the south-east",
    "the arm that turns clockwise",
    "the hand at 3 o'clock",
    "the bowl at three o’clock",
    "what shows the time?",
    "the bus that says express",
    "bus number 12",
    "number 12",
    "12",
    "player #7",
    "2nd horse",
    "second horse",
    "the third plate from the front",
    "two people",
    "the word on the wall",
    "shirt with letters",
    "a bottle labeled cola",
    'the door with "exit" above it',
    "the door with “exit” above it",
    "the 'exit' door",
    "the flag",
    "links oben der Hund",
    "le chien à gauche",
    "左边的狗",
    "собака",
    "the object that tells a driver which way to go, an arrow",
]

FREE = [
    "the dog",
    "man with hat",
    "red shirt",
    "the one in a bright green jacket",
    "upright bear",
    "giraffe behind the fence",
    "the person who is about to hit the ball",
    "umbrella closest to the camera",
    "what would you use to cut the bread?",
    "person ' s jacket",
    "the dogs' bowl",
    "a brown leather sofa with cushions",
    "top middle donut",
    "leg of the table",
    "the leaf in front of the lamp",
    "el caballo marrón",
    "I want something to sit on",
    "the woman's purse",
]


COLOURED = (
    """
red shirt | the reddest one | a reddish car | blonde girl | dark horse | light blue | multicolored kite | orange
the grey elephant | gray cat | blk dog | wht van | the colour of the sky | greenish bowl | ripe banana | silverware
brightest lamp | the brown-haired woman | guy in darkblue | redheaded man | красный | a golden-ish rim | Black
""".replace("\n", " | ")
    .strip(" |")
    .split(" | ")
)

COLOURLESS = [
    "the dog",
    "man with hat",
    "left guy",
    "a tired man",
    "the biggest bear",
    "tandem bike",
    "a redundant copy",
]

PLACED = (
    """
top donut | man next to the truck | the biggest bear | closest zebra | middle | guy in front | topmost | near us
bird above the roof | person cut off | the other dog | dog without collar | whole pizza | taller girl | furthest boat
woman holding a bag | the only cat | corner piece | smallest | a man riding
""".replace("\n", " | ")
    .strip(" |")
    .split(" | ")
)


@pytest.mark.parametrize("text", SIDED)
def test_texts_that_a_mirror_makes_untrue(text: str) -> None:
    assert side_word(text) is not None
    assert side_word(text.capitalize()) is not None
    assert place_word(text) is not None  # nothing of this may be cut off either


@pytest.mark.parametrize("text", FREE)
def test_texts_that_a_mirror_leaves_true(text: str) -> None:
    assert side_word(text) is None


def test_capitals_are_taken_for_something_to_read() -> None:
    assert side_word("the tv") is None
    assert side_word("the TV") == "TV"
    assert side_word("the STOP board") == "STOP"


@pytest.mark.parametrize("text", COLOURED)
def test_words_of_colour(text: str) -> None:
    assert colour_word(text) is not None


@pytest.mark.parametrize(
    "text", ["the dog", "man with hat", "left guy", "a tired man", "the biggest bear", "tandem bike"]
)
def test_words_without_colour(text: str) -> None:
    assert colour_word(text) is None


@pytest.mark.parametrize("text", PLACED)
def test_words_of_place_and_comparison(text: str) -> None:
    assert place_word(text) is not None


@pytest.mark.parametrize("text", ["the dog", "man with hat", "red shirt", "what would you cut bread with?", "a nest"])
def test_words_without_place(text: str) -> None:
    assert place_word(text) is None


def test_the_reasoning_is_part_of_what_is_said() -> None:
    told: Example = make_example("the dog", reasoning="It sits to the left of the man.")
    assert texts_of(make_example("the dog")) == "the dog"
    assert side_word(texts_of(told)) == "left"
