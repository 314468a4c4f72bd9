"""Symbolic scenes: which shapes are where. Everything that is asked later is decided on these, never on pixels."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from random import Random

from datamodules.synthetic.words import COLOURS, FORMS, HELD_OUT

_DIAMETERS = {"small": (0.165, 0.195), "big": (0.315, 0.365)}
"""Range of diameters as a share of the image's longer side: the classes lie at least a factor 1.6 apart."""

_HSV = {
    "red": ((-6, 5), (0.80, 0.95), (0.80, 0.92)),
    "orange": ((26, 33), (0.88, 1.0), (0.94, 1.0)),
    "yellow": ((53, 59), (0.80, 0.95), (0.94, 1.0)),
    "green": ((115, 140), (0.75, 0.95), (0.55, 0.72)),
    "blue": ((212, 226), (0.75, 0.95), (0.80, 0.95)),
    "purple": ((278, 292), (0.65, 0.85), (0.60, 0.75)),
    "white": ((0, 359), (0.0, 0.02), (0.96, 1.0)),
    "black": ((0, 359), (0.0, 0.10), (0.03, 0.09)),
}
"""Ranges of hue (degrees), saturation and value of each colour."""

_TURNS = {"circle": 0.0, "square": 9.0, "triangle": 12.0, "star": 18.0, "cross": 9.0}
"""Largest rotation in degrees; more would turn a square into a diamond or a plus into an ×."""

_REACH = {"circle": 1.0, "square": 1.22, "triangle": 1.26, "star": 1.2, "cross": 1.08}
"""Distance of the outermost point from the centre, in units of the shape's radius."""

_CONTACT = 0.9  # centres come as near as this share of the summed reaches: corners may just cover an edge
_TRIES = 30

SHAPE_COUNTS = {3: 0.35, 4: 0.3, 5: 0.2, 6: 0.15}
"""Share of scenes with each number of shapes."""


@dataclass(frozen=True)
class Shape:
    """One coloured shape.

    Attributes:
        colour: colour word.
        form: form word.
        size: ``"small"`` or ``"big"``.
        x: column of the centre in pixels.
        y: row of the centre in pixels.
        radius: half the diameter in pixels.
        angle: rotation in degrees.
        rgb: the colour drawn, 0…255.
    """

    colour: str
    form: str
    size: str
    x: float
    y: float
    radius: float
    angle: float
    rgb: tuple[int, int, int]

    @property
    def held_out(self) -> bool:
        """Whether its pair of colour and form is kept for the split ``generalisation``."""
        return (self.colour, self.form) in HELD_OUT


@dataclass(frozen=True)
class Scene:
    """Shapes in the order in which they are drawn, so that a later one covers an earlier one.

    Attributes:
        width: pixels.
        height: pixels.
        shapes: at least three.
        texture: seed of the background.
    """

    width: int
    height: int
    shapes: tuple[Shape, ...]
    texture: int


def random_scene(rng: Random, *, number: int, image_size: int, non_square: float, generalisation: bool) -> Scene | None:
    """Draw a scene with few colours and forms, so that most shapes share a property with another one.

    Args:
        rng: source of randomness.
        number: number of shapes.
        image_size: longer side in pixels.
        non_square: share of scenes with sides 4:3 or 3:4.
        generalisation: give some shapes held-out pairs of colour and form; without it no shape has one.

    Returns:
        The scene, or ``None`` when the shapes found no room.
    """
    width = height = image_size
    if rng.random() < non_square:
        width, height = rng.choice(((image_size, image_size * 3 // 4), (image_size * 3 // 4, image_size)))
    shapes: list[Shape] = []
    for colour, form in _pairs(rng, number, generalisation):
        shape = _place(rng, colour, form, width, height, shapes)
        if shape is None:
            return None
        shapes.append(shape)
    rng.shuffle(shapes)
    return Scene(width, height, tuple(shapes), rng.getrandbits(32))


def _pairs(rng: Random, number: int, generalisation: bool) -> list[tuple[str, str]]:
    colours = rng.sample(COLOURS, rng.randint(2, 4))
    forms = rng.sample(FORMS, rng.randint(2, 3))
    held_out: list[tuple[str, str]] = []
    if generalisation:
        held_out = rng.sample(HELD_OUT, rng.randint(1, 2))
        for colour, form in held_out:  # so that the rest of the scene shares properties with the targets
            colours[rng.randrange(len(colours))] = colour
            forms[rng.randrange(len(forms))] = form
    pairs = held_out
    while len(pairs) < number:
        pair = (rng.choice(colours), rng.choice(forms))
        if generalisation or pair not in HELD_OUT:
            pairs.append(pair)
        elif all((colour, form) in HELD_OUT for colour in colours for form in forms):
            colours = rng.sample(COLOURS, 3)
    return pairs


def _place(rng: Random, colour: str, form: str, width: int, height: int, others: list[Shape]) -> Shape | None:
    """Find room for a shape that (almost) touches no other; ``None`` when the scene is too full."""
    size = rng.choice(("small", "big"))
    radius = rng.uniform(*_DIAMETERS[size]) * max(width, height) / 2
    reach = radius * _REACH[form]
    for _ in range(_TRIES):
        x, y = rng.uniform(reach + 1, width - reach - 1), rng.uniform(reach + 1, height - reach - 1)
        if all(math.hypot(x - o.x, y - o.y) >= _CONTACT * (reach + o.radius * _REACH[o.form]) for o in others):
            angle = rng.uniform(-1, 1) * _TURNS[form]
            return Shape(colour, form, size, x, y, radius, angle, _rgb(rng, colour))
    return None


def _rgb(rng: Random, colour: str) -> tuple[int, int, int]:
    hue, saturation, value = (rng.uniform(*limits) for limits in _HSV[colour])
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
