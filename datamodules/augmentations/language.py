"""What a question says about its image that a change of the image could make untrue.

The rules look for words, without understanding any, and rather find one too many ("right now", "a ski lift"): a change
that is left out costs little, a question that became wrong teaches the wrong thing. They know English, with the
abbreviations and typing errors of people in a hurry, and the words for left and right of some other languages; a text
with letters of another script is taken to say everything.
"""

from __future__ import annotations

import re
import unicodedata

from coprs_lightning.structures import Example

_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_QUOTED = re.compile(r"[\"“”„«»`]|(?<!\w)['‘][^'’]+['’](?!\w)")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SIDES = _words(
    """
    l r lt rt lf lh rh lhs rhs rgt rit rite rigth lfet letf eft ight tl tr bl br ul ur ll lr port starboard
    sideways mirrored reversed links linke linken linker linkes rechts rechte rechten rechter rechtes gauche
    droite droit izquierda izquierdo derecha derecho sinistra destra esquerda esquerdo direita direito
    """
)
_COMPASS = re.compile(r"(?:north|south)?(?:east|west)(?:ern|erly|ward|wards|ernmost)?|[ns][ew]")
_CLOCK = _words(
    "clockwise anticlockwise counterclockwise clock oclock o'clock time hour hours minute minutes watch dial"
)
_READING = _words(
    """
    text texts word words number numbers numbered letter letters digit digits numeral numerals say says said
    saying read reads reading readable written write writing writes wrote spell spells spelled spelling print
    printed label labels labeled labelled logo logos brand brands sign signs caption title name names named
    initials inscription license licence registration score flag flags map alphabet character characters symbol
    symbols arrow arrows jersey handwriting handwritten message quote slogan barcode keyboard calendar
    """
)
_ORDER = _words(
    """
    first second third fourth fifth sixth seventh eighth ninth tenth last nth two three four five six seven
    eight nine ten eleven twelve
    """
)
_DIGIT = re.compile(r"\d")
_NO_SIDE = _words("upright bright fright alright outright downright copyright wright forthright")

_COLOURS = _words(
    """
    red orange yellow green blue indigo violet purple pink brown black white gray grey gold golden silver beige
    tan teal turquoise cyan aqua magenta maroon navy lime olive khaki peach cream ivory burgundy crimson scarlet
    lavender lilac mauve bronze copper brass amber coral salmon mustard rust rusty charcoal ebony emerald ruby
    sapphire mint fuchsia plum rose rainbow blond blonde brunette redhead ginger redheaded blondish tanned pale
    dark light bright dull vivid faded shade shaded tint tinted neon pastel monochrome shiny blk wht blu yel ylw
    grn brn gry prpl org drk lite ripe unripe yello purpl pruple whte balck golder orng oragne reddish zebra
    colorless color colour
    """
)
_COLOUR_STEMS = tuple(sorted(word for word in _COLOURS - {"rose", "mint", "rust", "lime", "plum"} if len(word) > 3))
_COLOUR_ENDINGS = _words("s d ed er est ish der dest dish dy den ness")

_PLACES = _words(
    """
    top bottom upper lower up down high higher low above below under beneath underneath over on off in inside
    outside into out within at by near nearer nearest next beside besides behind front back rear background
    foreground middle mid center centre centered central corner edge side sides end border between among amongst
    around along across against opposite close closer closest far farther farthest further furthest away distant
    distance from to toward towards facing looking pointing touching leaning holding riding wearing sitting
    standing row line column order image picture photo photograph frame scene screen view viewer camera cropped
    partial partially partly visible hidden whole entire full half ground sky horizon horizontal vertical
    bottommost topmost btm bot mddle ctr bg fg pic past through beyond surrounding
    """
)
_COMPARED = _words(
    """
    most least more less than only other others another same different all both each every any many several few
    some group pair none no not without except but big bigger biggest large larger largest small smaller
    smallest tall taller tallest short shorter shortest long longer longest tiny huge little giant alone single
    main bunch crowd people compared like similar bigest lrg sm size sized wide wider widest narrow full
    """
)


def texts_of(example: Example) -> str:
    """Everything that is said about an example's image: question and written reasoning."""
    return example.question if example.reasoning is None else f"{example.question}\n{example.reasoning}"


def side_word(text: str) -> str | None:
    """What in a text may not be true of the mirrored image, or ``None``.

    Left and right in all spellings, compass points, turning, clocks, letters and numbers to read, quotations, words in
    capitals, and ordinals and numbers, since people count from the left.
    """
    if (found := _foreign(text)) or (found := _match(_QUOTED, text)):
        return found
    for token in _TOKEN.findall(text):
        if token.isupper() and len(token) > 1:
            return token
        word = _plain(token)
        if word in _SIDES | _CLOCK | _READING | _ORDER or _COMPASS.fullmatch(word):
            return token
        if _DIGIT.search(word) or _is_side(word):
            return token
    return None


def colour_word(text: str) -> str | None:
    """The first word of a text that names or compares colours or brightness, or ``None``."""
    if found := _foreign(text):
        return found
    for token in _TOKEN.findall(text):
        word = _plain(token)
        if word in _COLOURS or any(stem in word for stem in _COLOUR_STEMS):
            return token
        if word.startswith("red") and word[3:] in _COLOUR_ENDINGS:
            return token
    return None


def place_word(text: str) -> str | None:
    """The first word of a text that tells a place, a relation or a comparison, or ``None``.

    Such a text needs what lies around its target, or where in the image that is. Everything that :func:`side_word`
    finds counts.
    """
    if found := side_word(text):
        return found
    for token in _TOKEN.findall(text):
        word = _plain(token)
        if word in _PLACES or word in _COMPARED or (word.endswith(("est", "most")) and len(word) > 4):
            return token
    return None


def _is_side(word: str) -> bool:
    """Left or right: alone, in a compound (`topleft`, `righthand`), or with one typing error."""
    if word in _NO_SIDE:
        return False
    if "left" in word or word.startswith("right") or word.endswith("right"):
        return True
    return (word[:1] == "l" and _one_error(word, "left")) or (word[:1] == "r" and _one_error(word, "right"))


def _one_error(word: str, meant: str) -> bool:
    """Whether a letter is wrong, missing, added, or exchanged with its neighbour."""
    if abs(len(word) - len(meant)) > 1:
        return False
    same = 0
    while same < min(len(word), len(meant)) and word[same] == meant[same]:
        same += 1
    rest, wanted = word[same:], meant[same:]
    exchanged = rest[:2] == wanted[1::-1] and rest[2:] == wanted[2:] and len(wanted) > 1
    return rest[1:] == wanted[1:] or rest[1:] == wanted or rest == wanted[1:] or exchanged


def _plain(token: str) -> str:
    """Lower case without accents and possessives."""
    folded = unicodedata.normalize("NFKD", token.lower().replace("’", "'"))
    return "".join(character for character in folded if not unicodedata.combining(character)).removesuffix("'s")


def _foreign(text: str) -> str | None:
    """The first letter of a script that the rules do not know."""
    for character in text:
        if ord(character) > 0x24F and character.isalpha() and not 0x1E00 <= ord(character) <= 0x1EFF:
            return character
    return None


def _match(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found.group() if found else None
