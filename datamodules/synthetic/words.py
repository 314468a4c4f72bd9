"""The attribute words of the synthetic scenes, in the canonical order of the written thoughts."""

from __future__ import annotations

SIZES = ("small", "big")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
FORMS = ("circle", "square", "triangle", "star", "cross")
ANY_FORM = "shape"
PLACES = ("left", "right", "top", "bottom", "middle", "top left", "top right", "bottom left", "bottom right")
RELATIONS = ("left of", "right of", "above", "below")

PLURALS = {form: form + ("es" if form.endswith("s") else "s") for form in (*FORMS, ANY_FORM)}

HELD_OUT = (("red", "star"), ("green", "square"), ("blue", "cross"), ("yellow", "triangle"), ("purple", "circle"))
"""(colour, form) pairs that no shape of the splits ``train``, ``val`` and ``test`` has, neither as a target nor beside
it; each of these colours and each form occurs there in other pairs. Every target of ``generalisation`` has one."""
