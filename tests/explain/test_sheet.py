import numpy as np

from coprs_lightning.explain.explanation import WITHOUT_THOUGHT
from coprs_lightning.explain.marks import AWAY, TOWARDS
from coprs_lightning.explain.sheet import sheet
from coprs_lightning.explain.words import Word
from tests.explain.build import explanation, reading


def words(number: int) -> list[Word]:
    return [Word(f" word{i}", i, "thought", 0.2, 1.0, 1.0 if i % 2 else -1.0, 1.0) for i in range(number)]


def shown(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(pixels.astype(int) - colour).max(-1) <= 3).sum())


def test_words_bars_and_pictures_are_drawn():
    pixels = sheet(explanation(words=words(4), counterfactuals=[reading(WITHOUT_THOUGHT, iou=0.5)]), "a title")
    assert pixels.ndim == 3
    assert pixels.dtype == np.uint8
    assert shown(pixels, TOWARDS) > 300
    assert shown(pixels, AWAY) > 100
    assert shown(sheet(explanation()), AWAY) == 0


def test_it_grows_with_what_there_is_and_long_thoughts_are_cut():
    small, large, endless = (sheet(explanation(words=words(number))).shape[0] for number in (3, 60, 4000))
    assert small < large < endless < 2.5 * small


def test_any_script_and_markup_are_text():
    text = " $x^2$ 犬 \x07 </think> \N{BACKSPACE}"
    pixels = sheet(explanation(question=text, words=[Word(text, 1, "thought", 0.5, 1.0)]), text)
    assert pixels.shape[1] > 1000
