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
    "red": ("tomato soup", "a fire engine"),
    "orange": ("pumpkin soup", "a tangerine peel"),
    "yellow": ("a lemon slice", "a banana peel"),
    "green": ("a tree frog", "mown grass"),
    "blue": ("a jeans jacket", "worn jeans"),
    "purple": ("a plum cake", "lavender soap"),
    "white": ("a glass of milk", "snow on a roof"),
    "black": ("a lump of coal", "raven feathers"),
}
"""Colours of things that no written thought names: a known word in unknown company.

What is needed is known (tomatoes are red), but a policy taught by the written thoughts is thrown by company that it
never saw, much of it no word of the vocabulary: some of the thoughts that it samples get the colour right, most do not.
That is what reinforcement needs: room, and something to reinforce. (Of things without any known word, hardly one
sampled thought in twenty is right.)
"""
UNFAMILIAR_FORM_FACTS = {
    "circle": ("a soup plate", "the wheel of a bike"),
    "square": ("a bathroom tile", "a kitchen tile"),
    "triangle": ("a pizza piece", "a birthday hat"),
    "star": ("a sheriff pin", "a police badge"),
    "cross": ("an ambulance sign", "a first aid kit"),
}
"""Forms of things that no written thought names, like :data:`UNFAMILIAR_COLOUR_FACTS`."""
_ARTICLES = ("a ", "an ", "the ")


def bare(fact: str) -> str:
    """The fact without its article, as thoughts name it: ``"ripe banana"``."""
    for article in _ARTICLES:
        fact = fact.removeprefix(article)
    return fact
