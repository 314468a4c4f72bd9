"""Everyday knowledge that stands for a colour or a form.

Written thoughts explain the facts of :data:`COLOUR_FACTS` and :data:`FORM_FACTS`, and these only. No written thought
names an unfamiliar fact, and the shipped tokenizer was trained without their words (it reads them in pieces), so that a
model that learnt from written thoughts has no knowledge of them: what a cherry means can be learnt from reward alone.
"""

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
UNFAMILIAR_COLOUR_FACTS = {
    "red": ("a cherry", "a stop sign"),
    "orange": ("a traffic cone", "a mandarin"),
    "yellow": ("a canary", "a rubber duck"),
    "green": ("an emerald", "broccoli"),
    "blue": ("a sapphire", "a cornflower"),
    "purple": ("an amethyst", "grape juice"),
    "white": ("flour", "cotton wool"),
    "black": ("soot", "a panther"),
}
"""Colours of things that no written thought names and whose words are no part of the vocabulary, on purpose."""
UNFAMILIAR_FORM_FACTS = {
    "circle": ("a tyre", "a button"),
    "square": ("a sticky note", "a sugar cube"),
    "triangle": ("a tortilla chip", "a shark fin"),
    "star": ("the head of a magic wand", "a walk of fame plaque"),
    "cross": ("a crucifix", "the emblem of switzerland"),
}
"""Forms of things that no written thought names, like :data:`UNFAMILIAR_COLOUR_FACTS`."""
_ARTICLES = ("a ", "an ", "the ")


def bare(fact: str) -> str:
    """The fact without its article, as thoughts name it: ``"ripe banana"``."""
    for article in _ARTICLES:
        fact = fact.removeprefix(article)
    return fact
