"""Questions that one shape answers, several do, or none: for models with several concentration tokens.

Neither the question nor the thought tells how many there are: that has to be seen. (Were it written in the thoughts
that are taught, a model would learn to believe its own guesses instead of looking.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random

from datamodules.synthetic.questions import Question
from datamodules.synthetic.scene import Scene
from datamodules.synthetic.sought import Sought, answers
from datamodules.synthetic.words import ANY_FORM, COLOURS, FORMS, HELD_OUT, SIZES

MOST = 3
"""Most shapes that a question seeks."""

EACH_REQUESTS = ("Where is {what}?", "Find {what}.", "Segment {what}.", "Show me {what}.", "Please mark {what}.")

_PROPOSALS = 40
_NONE_NEAR = 0.7
"""Share of the questions about nothing whose colour and form both occur in the scene, only not together."""


def _one(scene: Scene, rng: Random) -> Sought:
    """What one shape has; half of the questions speak of it as if it were alone."""
    shape = rng.choice(scene.shapes)
    return replace(_named(rng, shape.form, shape.colour, shape.size), each=rng.random() < 0.5)


def _several(scene: Scene, rng: Random) -> Sought:
    """What a shape has, for all that have it."""
    shape = rng.choice(scene.shapes)
    return replace(_named(rng, shape.form, shape.colour, shape.size), each=True)


def _none(scene: Scene, rng: Random) -> Sought:
    """What no shape has, most of the time a new combination of what some have."""
    near = rng.random() < _NONE_NEAR
    forms = sorted({shape.form for shape in scene.shapes}) if near else FORMS
    colours = sorted({shape.colour for shape in scene.shapes}) if near else COLOURS
    named = _named(rng, rng.choice(forms), rng.choice(colours), rng.choice(SIZES))
    return replace(named, each=rng.random() < 0.5)


def _named(rng: Random, form: str, colour: str, size: str) -> Sought:
    """Form, colour or both, with the size in a few cases."""
    form, colour = rng.choice(((form, colour), (form, colour), (form, ""), (ANY_FORM, colour)))
    return Sought(form=form, colour=colour, size=size if rng.random() < 0.15 else "")


SEVERAL_KINDS: Mapping[str, tuple[Callable[[Scene, Random], Sought], range]] = {
    "one": (_one, range(1, 2)),
    "several": (_several, range(2, MOST + 1)),
    "none": (_none, range(0, 1)),
}
"""How each kind of question is proposed, and how many shapes answer it."""

SEVERAL_SHARES: Mapping[str, float] = {"one": 0.35, "several": 0.4, "none": 0.25}
"""Shares of the kinds."""


def ask_several(kind: str, scene: Scene, rng: Random, *, avoid: list[Question]) -> Question | None:
    """Find a question of a kind that has as many answers as the kind says.

    No question names one of the held-out pairs of colour and form: that would give away that there is none.

    Args:
        kind: a key of :data:`SEVERAL_KINDS`.
        scene: the scene.
        rng: source of randomness.
        avoid: questions asked already; none is sought twice.

    Returns:
        The question, or ``None`` when a few proposals gave none.
    """
    propose, counts = SEVERAL_KINDS[kind]
    known = {replace(question.sought, each=False) for question in avoid}
    for _ in range(_PROPOSALS):
        sought = propose(scene, rng)
        if replace(sought, each=False) in known or (sought.colour, sought.form) in HELD_OUT:
            continue
        targets = answers(scene, sought)
        if targets is None or len(targets) not in counts:
            continue
        text = rng.choice(EACH_REQUESTS).format(what=f"{'each' if sought.each else 'the'} {sought.noun}")
        return Question(kind, text, sought, sought.phrase, targets)
    return None
