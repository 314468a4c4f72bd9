"""Ratios of sums, and numbers that travel as bits."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from coprs_lightning.metrics import Ratio
from coprs_lightning.metrics.table import from_bits, to_bits


def test_values_are_exactly_rounded():
    """Against exact fractions; a running sum in float64 loses digits here."""
    numbers = np.random.default_rng(0).random(1000) * 10.0 ** np.random.default_rng(1).integers(-12, 12, 1000)
    exact = float(sum(map(Fraction, numbers.tolist())))
    assert Ratio.mean(numbers).value() == exact / 1000
    running = 0.0
    for number in numbers.tolist():
        running += number
    assert running != exact


def test_a_mean_may_leave_examples_out():
    ratio = Ratio.mean([1.0, math.nan, 0.5], among=np.array([True, False, True]))
    assert ratio.value() == 0.75
    assert ratio.n == 2


def test_nothing_to_divide_by():
    assert math.isnan(Ratio.mean([]).value())
    assert Ratio(np.zeros(2), np.zeros(2), empty=1.0).value() == 1


def test_floats_travel_as_bits():
    numbers = [0.1, -0.0, math.inf, 5e-324, 1 / 3, math.nan]
    table = np.stack([to_bits(numbers).numpy(), to_bits(numbers[::-1]).numpy()])
    back = from_bits(table[:, :])
    assert back[0].tobytes() == np.array(numbers).tobytes()
    assert back[1].tobytes() == np.array(numbers[::-1]).tobytes()
    assert from_bits(np.zeros((0, 3), np.int64)).shape == (0, 3)
