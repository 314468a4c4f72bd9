"""What a question seeks: the attributes, their canonical phrase in a thought, and which shapes of a scene have them.

Grammar of the phrase that closes every thought::

    look for: [size] [colour] form [, place] [, not word]* .
    look for: both [size] [colour] forms.
    look for: each [size] [colour] form.
    anchor: colour form. look for: [size] [colour] form relation it.

``form`` is ``shape`` where any form will do; ``place`` and ``relation`` are from :mod:`datamodules.synthetic.words`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from datamodules.synthetic.scene import Scene, Shape
from datamodules.synthetic.words import ANY_FORM, COLOURS, FORMS, PLACES, PLURALS, RELATIONS, SIZES

_NEAR, _FAR = 0.40, 0.58
"""A centre is on the left up to 40 % of the width and clearly not on the left from 58 % on; between, it is doubtful."""

_CORE, _RIM = 0.13, 0.24
"""A centre is in the middle up to 13 % of the sides away from it, and clearly not from 24 % on (either way)."""

_CLEARLY, _HARDLY = 0.16, 0.02
"""A shape is left of another when the centres are 16 % of the longer side apart (and mainly sideways), and clearly not
when they are less than 2 % apart, or it is on the other side."""

_LOOK_FOR = re.compile(r"(?:anchor: (?P<anchor>[^.:]*)\. )?look for: (?P<phrase>[^.:]*)(?:\.|$)")
_PHRASE = re.compile(
    rf"(?:(?P<both>both )|(?P<each>each ))?(?:(?P<size>{'|'.join(SIZES)}) )?(?:(?P<colour>{'|'.join(COLOURS)}) )?"
    rf"(?P<form>{'|'.join([*PLURALS.values(), *PLURALS])})"
    rf"(?:, (?P<place>{'|'.join(sorted(PLACES, key=len, reverse=True))}))?"
    rf"(?P<excluded>(?:, not (?:{'|'.join([*COLOURS, *FORMS])}))*)"
    rf"(?: (?P<relation>{'|'.join(RELATIONS)}) it)?"
)
_SINGULARS = {plural: form for form, plural in PLURALS.items()}


@dataclass(frozen=True)
class Sought:
    """Attributes of the target; an empty one does not matter.

    Attributes:
        form: form word, or ``"shape"`` for any.
        colour: colour word.
        size: size word.
        place: place word.
        excluded: colours or forms that the target has not, in canonical order.
        relation: relation to the anchor.
        anchor: what the relation refers to; colour and form only.
        both: two shapes are sought, not one.
        each: all shapes that fit are sought, however many (not part of ``repr``, by which published splits are known).
    """

    form: str = ANY_FORM
    colour: str = ""
    size: str = ""
    place: str = ""
    excluded: tuple[str, ...] = ()
    relation: str = ""
    anchor: Sought | None = None
    both: bool = False
    each: bool = field(default=False, repr=False)

    @property
    def noun(self) -> str:
        """Size, colour and form: ``"small red circle"``, in the plural where both are sought."""
        form = PLURALS[self.form] if self.both else self.form
        return " ".join(word for word in (self.size, self.colour, form) if word)

    @property
    def phrase(self) -> str:
        """The canonical end of a thought (see the module's grammar)."""
        text = f"look for: {'both ' if self.both else ''}{'each ' if self.each else ''}{self.noun}"
        text += f", {self.place}" if self.place else ""
        text += "".join(f", not {word}" for word in self.excluded)
        if self.anchor is None:
            return text + "."
        return f"anchor: {self.anchor.noun}. {text} {self.relation} it."


def answers(scene: Scene, sought: Sought) -> tuple[int, ...] | None:
    """Indices of the shapes that are sought; ``None`` when a person could doubt about any shape of the scene."""
    anchor = None
    if sought.anchor is not None:
        anchors = answers(scene, sought.anchor)
        if anchors is None or len(anchors) != 1:
            return None
        anchor = scene.shapes[anchors[0]]
    verdicts = [_verdict(scene, shape, sought, anchor) for shape in scene.shapes]
    if None in verdicts:
        return None
    return tuple(index for index, verdict in enumerate(verdicts) if verdict)


def _verdict(scene: Scene, shape: Shape, sought: Sought, anchor: Shape | None) -> bool | None:
    """Whether a shape is sought: yes, no, or ``None`` for doubtful. One clear no outweighs any doubt."""
    if (
        (sought.form not in (ANY_FORM, shape.form))
        or (sought.colour not in ("", shape.colour))
        or (sought.size not in ("", shape.size))
        or shape.colour in sought.excluded
        or shape.form in sought.excluded
    ):
        return False
    verdicts = [_is_at(place, shape, scene) for place in sought.place.split()]
    if anchor is not None:
        verdicts.append(_is_beside(sought.relation, shape, anchor, scene))
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _is_at(place: str, shape: Shape, scene: Scene) -> bool | None:
    across, down = shape.x / scene.width, shape.y / scene.height
    if place == "middle":
        away = max(abs(across - 0.5), abs(down - 0.5))
        return True if away <= _CORE else (False if away >= _RIM else None)
    share = {"left": across, "right": 1 - across, "top": down, "bottom": 1 - down}[place]
    return True if share <= _NEAR else (False if share >= _FAR else None)


def _is_beside(relation: str, shape: Shape, anchor: Shape, scene: Scene) -> bool | None:
    if shape is anchor:
        return False
    right, down = shape.x - anchor.x, shape.y - anchor.y
    along, across = {
        "left of": (-right, down),
        "right of": (right, down),
        "above": (-down, right),
        "below": (down, right),
    }[relation]
    side = max(scene.width, scene.height)
    if along <= _HARDLY * side:
        return False
    return True if along >= max(_CLEARLY * side, abs(across)) else None


def parse_thought(thought: str) -> Sought | None:
    """Read the attributes off the last "look for:" of a thought; ``None`` when it breaks the grammar."""
    found = list(_LOOK_FOR.finditer(" ".join(thought.lower().split())))
    if not found:
        return None
    sought = _parse_phrase(found[-1]["phrase"])
    if sought is None or found[-1]["anchor"] is None:
        return None if sought is None or sought.relation else sought
    anchor = _parse_phrase(found[-1]["anchor"])
    if anchor is None or not sought.relation or anchor != Sought(form=anchor.form, colour=anchor.colour):
        return None
    return replace(sought, anchor=anchor)


def _parse_phrase(phrase: str) -> Sought | None:
    match = _PHRASE.fullmatch(phrase.strip())
    if match is None or (match["form"] in _SINGULARS) != bool(match["both"]):
        return None
    excluded = match["excluded"].replace(", not ", " ").split()
    return Sought(
        form=_SINGULARS.get(match["form"], match["form"]),
        colour=match["colour"] or "",
        size=match["size"] or "",
        place=match["place"] or "",
        excluded=tuple(word for word in (*COLOURS, *FORMS) if word in excluded),
        relation=match["relation"] or "",
        both=bool(match["both"]),
        each=bool(match["each"]),
    )


def thought_is_right(thought: str, reasoning: str) -> bool:
    """Whether a generated thought seeks the same attributes as the written one, whatever comes before them."""
    sought = parse_thought(thought)
    return sought is not None and sought == parse_thought(reasoning)
