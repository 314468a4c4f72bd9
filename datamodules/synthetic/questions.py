"""Questions of several kinds about a scene, each with exactly one right answer and the thought that leads to it.

A thought says nothing that must be seen: it follows from the words of the question, everyday knowledge included, and
closes with the attributes to look for (:mod:`datamodules.synthetic.sought`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from datamodules.synthetic import wordings as say
from datamodules.synthetic.facts import COLOUR_FACTS, FORM_FACTS, UNFAMILIAR_COLOUR_FACTS, UNFAMILIAR_FORM_FACTS, bare
from datamodules.synthetic.scene import Scene, Shape
from datamodules.synthetic.sought import Sought, answers
from datamodules.synthetic.words import ANY_FORM, COLOURS, FORMS, PLACES, RELATIONS

_PROPOSALS = 12
_Facts = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Question:
    """A question with its answer.

    Attributes:
        kind: kind of question.
        text: what is asked.
        sought: what the words ask for.
        thought: the written chain of thought, ending in ``sought.phrase``.
        targets: indices of the shapes that answer it.
    """

    kind: str
    text: str
    sought: Sought
    thought: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class _Proposal:
    """A question before its answer is checked; ``lead`` is the thought before the closing phrase."""

    sought: Sought
    text: str
    lead: str = ""


def ask(kind: str, scene: Scene, rng: Random, *, generalisation: bool, avoid: list[Question]) -> Question | None:
    """Find a question of a kind that has exactly one answer in the scene.

    Args:
        kind: a key of :data:`KINDS`.
        scene: the scene.
        rng: source of randomness.
        generalisation: ask only for shapes with held-out pairs of colour and form.
        avoid: questions asked already; none is sought twice, and other targets are preferred.

    Returns:
        The question, or ``None`` when a few proposals gave none.
    """
    taken = {question.targets for question in avoid}
    known = {question.sought for question in avoid}
    spare = None
    for _ in range(_PROPOSALS):
        index = rng.randrange(len(scene.shapes))
        if generalisation and not scene.shapes[index].held_out:
            continue
        proposal = KINDS[kind](scene, scene.shapes[index], rng)
        if proposal is None or proposal.sought in known:
            continue
        targets = answers(scene, proposal.sought)
        if targets is None or index not in targets or len(targets) != (2 if proposal.sought.both else 1):
            continue
        if generalisation and not _combines(scene, proposal.sought, targets):
            continue
        thought = f"{proposal.lead} {proposal.sought.phrase}".strip()
        question = Question(kind, proposal.text, proposal.sought, thought, targets)
        if targets not in taken:
            return question
        spare = question
    return spare


def _combines(scene: Scene, sought: Sought, targets: tuple[int, ...]) -> bool:
    """Whether the targets are held-out pairs whose colour and form must both be understood, where the kind has both."""
    by_pair = sought.colour != "" and sought.form != ANY_FORM
    by_others = sought.excluded != () or sought.anchor is not None
    return (by_pair or by_others) and all(scene.shapes[target].held_out for target in targets)


def _request(rng: Random, what: str) -> str:
    return rng.choice(say.REQUESTS).format(what=what)


def _describe(rng: Random, shape: Shape, *, size: float = 0.3) -> Sought:
    """Name the colour, the form or both of a shape, with its size in a share of cases."""
    form, colour = rng.choice(
        ((shape.form, shape.colour), (shape.form, shape.colour), (shape.form, ""), (ANY_FORM, shape.colour))
    )
    return Sought(form=form, colour=colour, size=shape.size if rng.random() < size else "")


def _attribute(scene: Scene, shape: Shape, rng: Random) -> _Proposal:
    sought = _describe(rng, shape)
    return _Proposal(sought, _request(rng, f"the {sought.noun}"))


def _both(scene: Scene, shape: Shape, rng: Random) -> _Proposal:
    sought = replace(_describe(rng, shape), both=True)
    return _Proposal(sought, rng.choice(say.BOTH_REQUESTS).format(what=f"both {sought.noun}"))


def _position(scene: Scene, shape: Shape, rng: Random) -> _Proposal | None:
    """Ask by place among several shapes of the same description."""
    sought = _describe(rng, shape, size=0.1) if rng.random() < 0.85 else Sought()
    if len(answers(scene, sought) or ()) < 2:
        return None
    sought = replace(sought, place=rng.choice(PLACES))
    what = f"the {sought.noun} {rng.choice(say.PLACE_PHRASES[sought.place])}"
    return _Proposal(sought, _request(rng, what), say.PLACE_THOUGHT)


def _comparison(scene: Scene, shape: Shape, rng: Random) -> _Proposal | None:
    """Ask by size among several shapes of the same description."""
    plain = _describe(rng, shape, size=0.0) if rng.random() < 0.9 else Sought()
    rivals = answers(scene, plain) or ()
    if len(rivals) < 2:
        return None
    plural = replace(plain, both=True).noun
    wording = rng.choice(say.OF_TWO if len(rivals) == 2 else say.OF_ALL)
    what = wording.format(
        more=say.COMPARATIVES[shape.size], most=say.SUPERLATIVES[shape.size], noun=plain.noun, plural=plural
    )
    return _Proposal(replace(plain, size=shape.size), _request(rng, what), say.SIZE_THOUGHT.format(plural=plural))


def _by_facts(colour_facts: _Facts, form_facts: _Facts, scene: Scene, shape: Shape, rng: Random) -> _Proposal:
    """Ask by something that has the colour, the form, or both."""
    colour_fact, form_fact = rng.choice(colour_facts[shape.colour]), rng.choice(form_facts[shape.form])
    of_colour = say.FACT_THOUGHT.format(fact=bare(colour_fact), word=shape.colour)
    of_form = say.FACT_THOUGHT.format(fact=bare(form_fact), word=shape.form)
    clue = rng.random()
    if clue < 0.15:
        what = rng.choice(say.TWO_FACTS).format(form_fact=form_fact, colour_fact=colour_fact)
        return _Proposal(Sought(form=shape.form, colour=shape.colour), _request(rng, what), f"{of_form} {of_colour}")
    size = shape.size if rng.random() < 0.15 else ""
    if clue < 0.6:
        plain = Sought(form=rng.choice((ANY_FORM, shape.form)), size=size)
        sought, fact, lead = replace(plain, colour=shape.colour), colour_fact, of_colour
        phrases, questions = say.COLOUR_KNOWLEDGE, say.COLOUR_QUESTIONS
    else:
        plain = Sought(colour=rng.choice(("", shape.colour)), size=size)
        sought, fact, lead = replace(plain, form=shape.form), form_fact, of_form
        phrases, questions = say.FORM_KNOWLEDGE, say.FORM_QUESTIONS
    if rng.random() < 0.5:
        text = rng.choice(questions).format(noun=plain.noun, fact=fact)
    else:
        text = _request(rng, rng.choice(phrases).format(noun=plain.noun, fact=fact))
    return _Proposal(sought, text, lead)


def _exclusion(scene: Scene, shape: Shape, rng: Random) -> _Proposal | None:
    """Ask by what the target is not: colours or forms that its rivals have."""
    by_colour = rng.random() < 0.6
    plain = (
        Sought(form=rng.choice((ANY_FORM, shape.form))) if by_colour else Sought(colour=rng.choice(("", shape.colour)))
    )
    rivals = [scene.shapes[index] for index in answers(scene, plain) or ()]
    found = {rival.colour if by_colour else rival.form for rival in rivals}
    found.discard(shape.colour if by_colour else shape.form)
    if not 1 <= len(found) <= 2:
        return None
    excluded = tuple(word for word in (*COLOURS, *FORMS) if word in found)
    spoken = rng.sample([word if by_colour else f"a {word}" for word in excluded], len(excluded))
    names = {"noun": plain.noun, "first": spoken[0], "second": spoken[-1]}
    what = rng.choice(say.NOT_ONE if len(excluded) == 1 else say.NOT_TWO).format(**names)
    lead = say.LEAVE_OUT_ONE if len(excluded) == 1 else say.LEAVE_OUT_TWO
    names = {"first": excluded[0], "second": excluded[-1]}
    return _Proposal(replace(plain, excluded=excluded), _request(rng, what), lead.format(**names))


def _relation(scene: Scene, shape: Shape, rng: Random) -> _Proposal:
    """Ask by the side of another shape on which the target lies."""
    other = rng.choice([other for other in scene.shapes if other is not shape])
    relation = rng.choice(RELATIONS)
    anchor = Sought(form=other.form, colour=other.colour)
    plain = Sought(form=rng.choice((ANY_FORM, shape.form)), colour=rng.choice(("", "", shape.colour)))
    sought = replace(plain, relation=relation, anchor=anchor)
    what = f"the {plain.noun} {rng.choice(say.RELATION_PHRASES[relation])} the {anchor.noun}"
    return _Proposal(sought, _request(rng, what))


KINDS: Mapping[str, Callable[[Scene, Shape, Random], _Proposal | None]] = {
    "attribute": _attribute,
    "position": _position,
    "comparison": _comparison,
    "knowledge": partial(_by_facts, COLOUR_FACTS, FORM_FACTS),
    "unfamiliar": partial(_by_facts, UNFAMILIAR_COLOUR_FACTS, UNFAMILIAR_FORM_FACTS),
    "exclusion": _exclusion,
    "relation": _relation,
    "both": _both,
}
"""How each kind of question is proposed."""

DEFAULT_SHARES: Mapping[str, float] = {
    "attribute": 0.28,
    "position": 0.2,
    "comparison": 0.14,
    "knowledge": 0.2,
    "exclusion": 0.1,
    "relation": 0.08,
    "both": 0.0,
}
"""Shares of the kinds; ``both`` asks for two shapes at once."""

REINFORCE_SHARES: Mapping[str, float] = {
    "unfamiliar": 0.6,
    "attribute": 0.14,
    "position": 0.1,
    "comparison": 0.07,
    "exclusion": 0.05,
    "relation": 0.04,
    "both": 0.0,
}
"""Shares in the splits to learn from reward: unfamiliar facts in place of known ones; the kinds beside them, in the
proportions of :data:`DEFAULT_SHARES`, keep what was learnt before."""
