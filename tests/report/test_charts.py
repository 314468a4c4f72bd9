"""Curves and points land where they belong."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from coprs_lightning.report.charts import labels, line_chart, scatter, short, ticks


def svg(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html[: html.index("</svg>") + 6])


def path(element: ElementTree.Element) -> list[tuple[float, float]]:
    pairs = re.findall(r"[ML]([\d.-]+) ([\d.-]+)", element.get("d", ""))
    return [(float(x), float(y)) for x, y in pairs]


def test_a_curve_is_drawn_to_scale() -> None:
    made = svg(line_chart({"a": ([0, 10, 20], [0.0, 1.0, 0.5])}))
    (curve,) = [found for found in made.iter("path") if found.get("class") == "s0"]
    (x0, y0), (x1, y1), (x2, y2) = path(curve)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(2 * (y2 - y1), abs=0.2)
    assert y1 < y0  # up is more
    titles = [found.text for found in made.iter("title")]
    assert titles == ["a: 0", "a: 1", "a: 0.5"]


def test_long_curves_are_means_of_neighbours() -> None:
    made = svg(line_chart({"a": (range(10_000), [float(n % 25) for n in range(10_000)])}))
    (curve,) = [found for found in made.iter("path") if found.get("class") == "s0"]
    assert len(path(curve)) <= 400
    assert len({y for _, y in path(curve)}) == 1  # every mean is 12


def test_what_is_not_finite_is_left_out() -> None:
    assert line_chart({"a": ([0, 1], [math.nan, math.inf])}) == ""
    assert line_chart({}) == ""
    made = line_chart({"a": ([0, 1, 2], [1.0, math.nan, 3.0]), "b": ([5], [2.0])})
    assert "nan" not in made
    assert made.count("<li>") == 2


def test_a_constant_curve_has_a_scale() -> None:
    for value in (0.0, 600.0, -3.0, 1e-7):
        svg(line_chart({"n": ([1, 2], [value, value])}))


def test_names_are_escaped() -> None:
    made = line_chart({"<script>": ([0, 1], [0, 1])}) + scatter(
        [(0, 0, "<script>"), (1, 1, "b")], names=("<script>", "<script>"), line=None, unit_square=True, diagonal=True
    )
    assert "<script>" not in made


def test_points_line_and_band() -> None:
    line = ([0.0, 1.0], [0.2, 0.8], [0.1, 0.7], [0.3, 0.9])
    points = [(0.0, 0.0, "a"), (1.0, 1.0, "b"), (0.5, 0.25, "c")]
    made = svg(scatter(points, names=("x", "y"), line=line, unit_square=True, diagonal=True))
    places = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in made.iter("circle")]
    assert places[2][0] == pytest.approx((places[0][0] + places[1][0]) / 2, abs=0.2)
    assert places[2][1] == pytest.approx(places[0][1] + (places[1][1] - places[0][1]) / 4, abs=0.2)
    (band,) = made.iter("polygon")
    assert len(band.get("points", "").split()) == 4
    (diagonal,) = [found for found in made.iter("path") if found.get("stroke-dasharray")]
    assert path(diagonal) == places[:2]
    without = scatter(points, names=("x", "y"), line=None, unit_square=False, diagonal=False)
    assert "polygon" not in without
    assert "dasharray" not in without


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.45, 0.71), (-3, 2700), (1e-5, 3e-4), (599.5, 600.5)])
def test_ticks_are_round_and_cover(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 9
    assert found[0] <= low + 1e-9
    assert found[-1] >= high - 1e-9
    assert len(set(labels(found))) == len(found)


def test_numbers_are_short() -> None:
    shown = [short(value) for value in (0, 0.5, 0.12345, 12.5, 2700, 1e-4, 3e7)]
    assert shown == ["0", "0.5", "0.123", "12.5", "2,700", "1.0e-04", "3.0e+07"]
