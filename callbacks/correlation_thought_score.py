"""How right a thought about a synthetic scene is, by the facts it states and not by its wording.

The written thought of the data is the truth: it says which attributes the target has, and where the question names
another shape, which one and on which side of it. A thought is read for the same facts in its own words, and scored by
F1: facts that are missing and facts that are wrong, contradicted or invented both cost.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from datamodules.synthetic.sought import Sought, parse_thought
from datamodules.synthetic.words import ANY_FORM, COLOURS, FORMS, PLURALS, RELATIONS

Fact = tuple[str, str]
"""What the fact is about (``"colour"``, ``"anchor colour"``, ``"not"`` …) and what it says (``"red"``)."""

# longest first: a phrase inside another one must not be taken for itself
_PHRASES = (
    (r"(?:to|on|in) the (left|right)(?: side| half| part)? of the (?:image|picture|photo|scene)", r" @place:\1 "),
    (r"(?:to the |on the )?(left|right)(?: side)? of", r" @relation:\1_of "),
    (r"\b(?:above|higher than|over)\b", " @relation:above "),
    (r"\b(?:below|lower than|under|underneath|beneath)\b", " @relation:below "),
    (r"\b(?:top|upper)[ -](left|right)\b", r" @place:top_\1 "),
    (r"\b(?:bottom|lower)[ -](left|right)\b", r" @place:bottom_\1 "),
    (r"\b(left|right)\b", r" @place:\1 "),
    (r"\b(?:top|upper)\b", " @place:top "),
    (r"\b(?:bottom|lower)\b", " @place:bottom "),
    (r"\b(?:middle|centre|center)\b", " @place:middle "),
    (r"\b(?:leave out|leaving out|except(?: for)?|without|neither|nor|but no)\b", " not "),
)
_SIZE_WORDS = {
    **dict.fromkeys(("small", "smaller", "smallest", "little", "tiny"), "small"),
    **dict.fromkeys(("big", "bigger", "biggest", "large", "larger", "largest", "huge"), "big"),
}
_FORM_WORDS = {**{form: form for form in FORMS}, **{PLURALS[form]: form for form in FORMS}}
_NUMBER_WORDS = {"both": "both", "each": "each", "every": "each"}
_BETWEEN = frozenset(("and", "or", "a", "an", "the", "not", ","))
_WORD = re.compile(r"@[a-z]+:[a-z_]+|[a-z]+|[,]")
_CONCLUSION = re.compile(r"look(?:ing|s)? for\s*:?")
_ANCHOR = re.compile(r"anchor\s*:")
_MEANS = re.compile(r"\bmeans\b")


@dataclass(frozen=True)
class ThoughtScore:
    """A thought against the truth.

    Attributes:
        value: F1 of the facts in [0, 1]; 0 for a thought that states none.
        right: facts that both have.
        missing: facts of the truth that the thought does not state.
        wrong: facts that the thought states and the truth does not have.
    """

    value: float
    right: frozenset[Fact]
    missing: frozenset[Fact]
    wrong: frozenset[Fact]


def score_thought(thought: str, written: str | None) -> ThoughtScore | None:
    """Score a thought.

    Args:
        thought: what was written by the policy.
        written: the data's thought, with the closing phrase of :mod:`datamodules.synthetic.sought`.

    Returns:
        the score; ``None`` where the data has no such thought, so that nothing is known.
    """
    sought = None if written is None else parse_thought(written)
    if sought is None:
        return None
    truth, stated = facts_of(sought), stated_facts(thought)
    right = truth & stated
    total = len(truth) + len(stated)
    value = 2 * len(right) / total if stated and total else 0.0
    return ThoughtScore(value, right, truth - stated, stated - truth)


def facts_of(sought: Sought) -> frozenset[Fact]:
    """The facts of what a question seeks; attributes that do not matter are none."""
    pairs = [
        ("form", "" if sought.form == ANY_FORM else sought.form),
        ("colour", sought.colour),
        ("size", sought.size),
        ("place", sought.place),
        ("relation", sought.relation),
        ("number", "both" if sought.both else "each" if sought.each else ""),
        *(("not", word) for word in sought.excluded),
    ]
    if sought.anchor is not None:
        pairs += [(f"anchor {name}", value) for name, value in facts_of(sought.anchor)]
    return frozenset((name, value) for name, value in pairs if value)


def stated_facts(thought: str) -> frozenset[Fact]:
    """The facts that a thought states.

    In a thought that comes to a conclusion ("look for …"), every conclusion counts, what it names as the anchor, what
    it leaves out and what it says that something means; other sentences only lead there. In a thought without one,
    whatever it names counts. After a relation ("left of", "above") the other shape is meant.
    """
    text = " ".join(thought.lower().split())
    concludes = _CONCLUSION.search(text) is not None
    facts: set[Fact] = set()
    for sentence in re.split(r"[.;!?]+", text):
        anchor = _ANCHOR.search(sentence)
        conclusion = _CONCLUSION.search(sentence)
        meaning = _MEANS.search(sentence)
        if anchor is not None:
            facts |= _read(sentence[anchor.end() :], "anchor ")
        elif conclusion is not None:
            facts |= _read(sentence[conclusion.end() :], "")
        elif meaning is not None:  # what is explained may have a colour in its name, which is not meant
            facts |= _read(sentence[meaning.end() :], "")
        elif not concludes:
            facts |= _read(sentence, "")
        else:
            facts |= {fact for fact in _read(sentence, "") if fact[0] == "not"}
    return frozenset(facts)


def _read(text: str, about: str) -> set[Fact]:
    for pattern, marker in _PHRASES:
        text = re.sub(pattern, marker, text)
    facts: set[Fact] = set()
    negated = False
    for word in _WORD.findall(text):
        if word == "not":
            negated = True
            continue
        fact = _fact(word)
        if fact is None:
            negated = negated and word in _BETWEEN
            continue
        name, value = fact
        if name == "relation":
            facts.add(fact)
            about = "anchor "  # what follows is the other shape
        elif negated:
            facts.add(("not", value))
        else:
            facts.add((f"{about}{name}", value))
    return facts


def _fact(word: str) -> Fact | None:
    if word.startswith("@"):
        name, value = word[1:].split(":")
        value = value.replace("_", " ")
        return (name, value) if name == "place" or value in RELATIONS else None
    for name, words in (("form", _FORM_WORDS), ("size", _SIZE_WORDS), ("number", _NUMBER_WORDS)):
        if word in words:
            return name, words[word]
    return ("colour", word) if word in COLOURS else None
