import pytest

from coprs_lightning.explain.marks import marks
from coprs_lightning.explain.words import Word


def test_bars_are_relative_to_the_strongest_of_thought_and_prompt():
    words = [
        Word(" red", 1, "thought", 0.25, 1.5, 0.5, -0.2),
        Word(".", 2, "thought", 1.0, 0.0, -1.0, 0.4),
        Word("<REF_POS>", 3, "concentration", 1.0, 0.0, 7.0),
    ]
    first, second, third = marks(words)
    assert first.bars == (pytest.approx(0.5), pytest.approx(-0.5))
    assert second.bars == (-1.0, 1.0)
    assert third.bars == (1.0, None)
    assert first.surprise == 0.75
    assert (first.gap, second.gap) == (True, False)
    assert first.words == "probability 0.250, entropy 1.50, gradient +0.5, left out -0.200"
    (alone,) = marks(words[:1], words[1:])
    assert alone.bars == first.bars


def test_words_without_letters_can_be_seen():
    texts = ["\n\n", " ", "", "a\x07b"]
    found = marks([Word(text, 1, "prompt") for text in texts])
    assert [mark.text for mark in found] == ["↵", "␣", "·", "a\N{REPLACEMENT CHARACTER}b"]
    assert [mark.newline for mark in found] == [True, False, False, False]
    assert all(mark.bars == (None, None) and mark.surprise == 0 for mark in found)


def test_no_influence_at_all_is_no_bar():
    assert marks([Word("a", 1, "thought", 1.0, 0.0, 0.0, 0.0)])[0].bars == (0.0, 0.0)
