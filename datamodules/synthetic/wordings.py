"""The sentences that questions and thoughts are made of, and the vocabulary that follows from them."""

from __future__ import annotations

import re
from itertools import chain

from datamodules.synthetic.facts import COLOUR_FACTS, FORM_FACTS
from datamodules.synthetic.words import COLOURS, FORMS, PLACES, PLURALS, RELATIONS, SIZES

REQUESTS = (
    "Where is {what}?",
    "Find {what}.",
    "Segment {what}.",
    "Show me {what}.",
    "Please mark {what}.",
    "Which one is {what}?",
)
BOTH_REQUESTS = ("Where are {what}?", "Find {what}.", "Segment {what}.", "Show me {what}.", "Please mark {what}.")
PLACE_PHRASES = {
    "left": ("on the left", "on the left side", "in the left half"),
    "right": ("on the right", "on the right side", "in the right half"),
    "top": ("at the top", "in the upper half"),
    "bottom": ("at the bottom", "in the lower half"),
    "middle": ("in the middle", "in the centre"),
    **{corner: (f"at the {corner}", f"in the {corner} part") for corner in PLACES if " " in corner},
}
RELATION_PHRASES = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "higher than"),
    "below": ("below", "lower than"),
}
COMPARATIVES = {"small": "smaller", "big": "bigger"}
SUPERLATIVES = {"small": "smallest", "big": "biggest"}
OF_TWO = ("the {more} of the two {plural}", "the {more} one of the two {plural}", "the {more} {noun}")
OF_ALL = ("the {most} {noun}", "the {most} of the {plural}")
COLOUR_KNOWLEDGE = ("the {noun} with the colour of {fact}", "the {noun} that has the colour of {fact}")
FORM_KNOWLEDGE = ("the {noun} that looks like {fact}", "the {noun} with the form of {fact}")
TWO_FACTS = ("the shape with the form of {form_fact} and the colour of {colour_fact}",)
COLOUR_QUESTIONS = ("Which {noun} has the colour of {fact}?", "What {noun} is coloured like {fact}?")
FORM_QUESTIONS = ("Which {noun} looks like {fact}?", "Which {noun} has the form of {fact}?")
NOT_ONE = ("the {noun} that is not {first}", "the only {noun} that is not {first}")
NOT_TWO = ("the {noun} that is neither {first} nor {second}", "the {noun} that is not {first} and not {second}")

PLACE_THOUGHT = "the place decides."
SIZE_THOUGHT = "{plural} differ in size."
FACT_THOUGHT = "{fact} means {word}."
LEAVE_OUT_ONE = "leave out {first}."
LEAVE_OUT_TWO = "leave out {first} and {second}."

_GLUE = "look for : anchor : it . , both not the and a an ?"
_WORD = re.compile(r"[A-Za-z]+|[^\sA-Za-z]")


def words(text: str) -> list[str]:
    """Split a text into words and punctuation marks."""
    return _WORD.findall(text)


def vocabulary() -> list[str]:
    """All words and punctuation marks that questions and thoughts can hold, sorted."""
    tables = (PLACE_PHRASES, RELATION_PHRASES, COLOUR_FACTS, FORM_FACTS)
    texts = chain(
        *(SIZES, COLOURS, FORMS, PLACES, RELATIONS, PLURALS.values(), COMPARATIVES.values(), SUPERLATIVES.values()),
        *(phrases for table in tables for phrases in table.values()),
        *(REQUESTS, BOTH_REQUESTS, OF_TWO, OF_ALL, COLOUR_KNOWLEDGE, FORM_KNOWLEDGE, TWO_FACTS),
        *(COLOUR_QUESTIONS, FORM_QUESTIONS, NOT_ONE, NOT_TWO),
        (PLACE_THOUGHT, SIZE_THOUGHT, FACT_THOUGHT, LEAVE_OUT_ONE, LEAVE_OUT_TWO, _GLUE),
    )
    return sorted({word for text in texts for word in words(re.sub(r"\{\w+\}", " ", text))})
