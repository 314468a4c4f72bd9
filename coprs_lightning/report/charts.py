"""Curves and scatter plots as inline SVG, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from coprs_lightning.report.html import esc
from coprs_lightning.report.style import SERIES

Curve = tuple[Sequence[float], Sequence[float]]
"""x and y of a curve."""

_WIDTH, _HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 12, 32
_POINTS = 400
"""Points drawn of a curve; of more, means of neighbours."""


def line_chart(curves: Mapping[str, Curve], *, x_name: str = "step") -> str:
    """Curves over one axis, with a legend that tells their last values.

    Args:
        curves: x and y by name; points that are not finite are left out.
        x_name: of the horizontal axis.

    Returns:
        a figure; empty where no curve has a point.
    """
    drawn = {name: _finite(curve) for name, curve in curves.items()}
    drawn = {name: curve for name, curve in drawn.items() if curve[0]}
    if not drawn:
        return ""
    xs = [x for curve in drawn.values() for x in curve[0]]
    ys = [y for curve in drawn.values() for y in curve[1]]
    x_low, x_high = _wide(min(xs), max(xs))
    y_ticks = ticks(*_wide(min(ys), max(ys)))
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_axes(place, (x_low, x_high), _inside(ticks(x_low, x_high), x_low, x_high), y_ticks, x_name)]
    legend = []
    for index, (name, (x, y)) in enumerate(drawn.items()):
        color = index % SERIES
        x_mean, y_mean = _means(x, y)
        dashes = ' stroke-dasharray="5 3"' if index >= SERIES else ""
        if len(x_mean) == 1:
            where = place(x_mean[0], y_mean[0])
            parts.append(f'<circle cx="{where[0]:.1f}" cy="{where[1]:.1f}" r="3" class="f{color}"/>')
        else:
            path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in map(place, x_mean, y_mean))
            parts.append(f'<path d="{path}" fill="none" stroke-width="1.8" class="s{color}"{dashes}/>')
        if 1 < len(x_mean) <= 12:  # few points: show where they are
            for a, b, value in ((*place(a, b), b) for a, b in zip(x_mean, y_mean, strict=True)):
                title = f"<title>{esc(name)}: {short(value)}</title>"
                parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.6" class="f{color}">{title}</circle>')
        legend.append(f'<li><i class="b{color}"></i>{esc(name)} <b>{short(y[-1])}</b></li>')
    label = f"Curves of {', '.join(drawn)}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{esc(label)}">{"".join(parts)}</svg>'
        f'<ul class="legend">{"".join(legend)}</ul>'
    )


def scatter(
    points: Sequence[tuple[float, float, str]],
    *,
    names: tuple[str, str],
    line: tuple[Sequence[float], Sequence[float], Sequence[float], Sequence[float]] | None,
    unit_square: bool,
    diagonal: bool,
) -> str:
    """Points with a line and its confidence band.

    Args:
        points: x, y and what the point is.
        names: of the axes.
        line: x, y, lower and upper end of the band; ``None`` where there is no line.
        unit_square: axes from 0 to 1.
        diagonal: draw y = x.
    """
    width, height = 420, 390
    x_ticks = y_ticks = ticks(0.0, 1.0)
    if not unit_square:
        drawn = ([], [], [], []) if line is None else line
        xs, ys = [p[0] for p in points], [*(p[1] for p in points), *drawn[2], *drawn[3]]
        x_ticks, y_ticks = ticks(*_wide(min(xs), max(xs))), ticks(*_wide(min(ys), max(ys)))
    (x_low, x_high), (y_low, y_high) = (x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        return _LEFT + across * (width - _LEFT - _RIGHT), height - _BOTTOM - 6 - up * (height - _TOP - _BOTTOM - 6)

    parts = [_axes(place, (x_low, x_high), x_ticks, y_ticks, names[0], size=(width, height))]
    middle = (place(x_low, y_low)[1] + place(x_low, y_high)[1]) / 2
    turned = f'x="13" y="{middle:.0f}" transform="rotate(-90 13 {middle:.0f})" text-anchor="middle"'
    parts.append(f"<text {turned}>{esc(names[1])}</text>")
    if diagonal:
        (a, b), (c, d) = place(0, 0), place(1, 1)
        parts.append(f'<path d="M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" class="axis" stroke-dasharray="2 4"/>')
    seen = max(0.15, min(0.6, 60 / max(1, len(points))))
    for x, y, what in points:
        a, b = place(x, y)
        title = f"<title>{esc(what)}: {short(x)}, {short(y)}</title>"
        parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" class="f0" opacity="{seen:.2f}">{title}</circle>')
    if line is not None:
        at, middle_line, low, high = line
        edge = [*map(place, at, low), *reversed([*map(place, at, high)])]
        band = " ".join(f"{a:.1f},{b:.1f}" for a, b in edge)
        parts.append(f'<polygon points="{band}" class="f1" opacity="0.25"/>')
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in map(place, at, middle_line))
        parts.append(f'<path d="{path}" fill="none" stroke-width="2" class="s1"/>')
    label = f"{names[1]} against {names[0]}, {len(points)} points"
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{esc(label)}">{"".join(parts)}</svg>'


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that cover a range: 1, 2 or 5 times a power of ten apart.

    Args:
        low: lower end.
        high: upper end, above ``low``.
        most: how many there are at most, about.
    """
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def labels(values: Sequence[float]) -> list[str]:
    """Ticks with as many digits as tell them apart."""
    steps = [abs(b - a) for a, b in pairwise(values) if b != a]
    if not steps or min(steps) < 1e-5 or max(map(abs, values)) >= 1e6:
        return [f"{value:g}" for value in values]
    digits = max(0, -math.floor(math.log10(min(steps)) + 1e-9))
    return [f"{value:,.{digits}f}" for value in values]


def short(value: float) -> str:
    """A number in few characters."""
    if value == 0 or 0.001 <= abs(value) < 100_000:
        return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.1e}"


def _axes(
    place: Callable[[float, float], tuple[float, float]],
    x_range: tuple[float, float],
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_name: str,
    size: tuple[int, int] = (_WIDTH, _HEIGHT),
) -> str:
    parts = []
    for y, text in zip(y_ticks, labels(y_ticks), strict=True):
        left, right = place(x_range[0], y), place(x_range[1], y)
        parts.append(f'<path d="M{left[0]:.1f} {left[1]:.1f}H{right[0]:.1f}" class="axis"/>')
        parts.append(f'<text x="{left[0] - 6:.1f}" y="{left[1] + 4:.1f}" text-anchor="end">{text}</text>')
    floor = place(x_range[0], min(y_ticks, default=0.0))[1]
    for x, text in zip(x_ticks, labels(x_ticks), strict=True):
        parts.append(f'<text x="{place(x, 0)[0]:.1f}" y="{floor + 15:.1f}" text-anchor="middle">{text}</text>')
    parts.append(f'<text x="{size[0] - _RIGHT}" y="{size[1] - 4}" text-anchor="end">{esc(x_name)}</text>')
    return "".join(parts)


def _inside(values: Sequence[float], low: float, high: float) -> list[float]:
    return [value for value in values if low <= value <= high]


def _finite(curve: Curve) -> tuple[list[float], list[float]]:
    kept = [(x, y) for x, y in zip(*curve, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return [x for x, _ in kept], [y for _, y in kept]


def _wide(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty."""
    if high - low > 1e-12 * max(1.0, abs(low), abs(high)):
        return low, high
    half = max(abs(low) * 0.1, 0.5 if low == 0 else 1e-9)
    return low - half, high + half


def _means(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means of neighbours, so that there are no more than are drawn."""
    size = math.ceil(len(x) / _POINTS)
    if size <= 1:
        return list(x), list(y)
    starts = range(0, len(x), size)
    return [math.fsum(x[s : s + size]) / len(x[s : s + size]) for s in starts], [
        math.fsum(y[s : s + size]) / len(y[s : s + size]) for s in starts
    ]
