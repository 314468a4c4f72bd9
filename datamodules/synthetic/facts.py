"""Everyday knowledge that stands for a colour or a form."""

from __future__ import annotations

COLOUR_FACTS = {
    "red": ("a ripe tomato", "a strawberry", "a fire truck", "blood"),
    "orange": ("a carrot", "a pumpkin", "a tangerine", "a basketball"),
    "yellow": ("a ripe banana", "a lemon", "a sunflower", "a baby chick"),
    "green": ("fresh grass", "a frog", "a cucumber", "spring leaves"),
    "blue": ("the sky on a clear day", "the sea on a map", "a pair of jeans"),
    "purple": ("an eggplant", "lavender", "a ripe plum"),
    "white": ("fresh snow", "milk", "a polar bear", "salt"),
    "black": ("coal", "a raven", "the sky at night"),
}
FORM_FACTS = {
    "circle": ("a wheel", "a coin", "the full moon", "a dinner plate"),
    "square": ("a chess board", "one side of a dice", "a floor tile"),
    "triangle": ("a slice of pizza", "a pyramid", "a party hat"),
    "star": ("a starfish", "a sheriff badge", "the tip of a christmas tree"),
    "cross": ("a first aid sign", "a plus sign", "a hospital sign"),
}
_ARTICLES = ("a ", "an ", "the ")


def bare(fact: str) -> str:
    """The fact without its article, as thoughts name it: ``"ripe banana"``."""
    for article in _ARTICLES:
        fact = fact.removeprefix(article)
    return fact
