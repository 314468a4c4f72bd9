import pytest

from coprs_lightning.explain.influence import agreement
from coprs_lightning.explain.words import Word


def words(gradients, left_out):
    return [Word("x", 1, "thought", 1.0, 0.0, g, o) for g, o in zip(gradients, left_out, strict=True)]


def test_agreement_is_the_rank_correlation():
    assert agreement(words([1, 2, 3, 4], [0.1, 0.2, 5, 90])) == pytest.approx(1)
    assert agreement(words([1, 2, 3, 4], [4, 3, 2, 1])) == pytest.approx(-1)
    assert agreement(words([1, 2, 3, 4, None, 0], [1, 2, 3, 4, 9, None])) == pytest.approx(1)


def test_too_few_or_equal_values_have_none():
    assert agreement(words([1, 2, 3], [1, 2, 3])) is None
    assert agreement(words([0, 0, 0, 0], [1, 2, 3, 4])) is None
    assert agreement([]) is None
