"""An explanation as one picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from callbacks.drawing import quiet_fonts, render, text_font
from callbacks.text_layout import printable, wrap
from coprs_lightning.explain.explanation import Explanation
from coprs_lightning.explain.marks import AWAY, HOW_TO_READ, SURPRISE, TOWARDS, Mark, marks
from coprs_lightning.explain.pictures import Picture, sections

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 110
_COLUMNS = 4
_PANEL, _MARGIN, _GAP = 2.9, 0.25, 0.14  # inches
_LINE, _HEAD, _WORDS = 0.21, 0.42, 0.42  # inches: of a text line, a heading, a line of marked words
_BAR = 0.075  # inches: height of the longest bar
_MOST_LINES = 10  # of marked words
_WIDTH = 2 * _MARGIN + _COLUMNS * _PANEL + (_COLUMNS - 1) * _GAP
_SOFT = "#555555"


@dataclass
class _Ink:
    """Something to draw: its top in inches from the sheet's top, and how, once the sheet's height is known."""

    top: float
    draw: Callable[[_Pen, float], None]


class _Pen:
    """Draws on a figure in inches from its top left corner."""

    def __init__(self, figure: Figure, height: float) -> None:
        self.figure = figure
        self.height = height

    def text(self, text: str, left: float, top: float, **style: Any) -> None:
        place = left / _WIDTH, 1 - (top + 0.15) / self.height
        self.figure.text(*place, text, parse_math=False, va="baseline", **{**text_font(), **style})

    def box(self, left: float, top: float, width: float, height: float, colour: Sequence[float]) -> None:
        from matplotlib.patches import Rectangle

        corner = left / _WIDTH, 1 - (top + height) / self.height
        size = width / _WIDTH, height / self.height
        patch = Rectangle(corner, *size, facecolor=colour, linewidth=0, transform=self.figure.transFigure, zorder=-1)
        self.figure.add_artist(patch)

    def picture(self, pixels: np.ndarray, left: float, top: float, width: float, height: float) -> None:
        place = left / _WIDTH, 1 - (top + height) / self.height, width / _WIDTH, height / self.height
        axes = self.figure.add_axes(place)
        axes.imshow(pixels, interpolation="antialiased", aspect="equal")
        axes.set_axis_off()


class _Sheet:
    """Collects what is drawn, from the top down."""

    def __init__(self) -> None:
        from matplotlib.backends.backend_agg import RendererAgg
        from matplotlib.font_manager import FontProperties

        font = text_font()
        self._properties = FontProperties(family=font["fontfamily"], size=font["fontsize"])
        self._renderer = RendererAgg(8, 8, _DPI)
        self._inks: list[_Ink] = []
        self.top = _MARGIN

    def width(self, text: str) -> float:
        """Inches that a text takes."""
        return float(self._renderer.get_text_width_height_descent(text, self._properties, ismath=False)[0]) / _DPI

    def put(self, draw: Callable[[_Pen, float], None], height: float) -> None:
        """Draw something of a height below everything else."""
        self._inks.append(_Ink(self.top, draw))
        self.top += height

    def heading(self, title: str, remark: str = "") -> None:
        """A heading, with a remark behind it."""

        def draw(pen: _Pen, top: float) -> None:
            pen.text(title, _MARGIN, top + 0.12, fontweight="bold", fontsize=12)
            if remark:
                pen.text(remark, _MARGIN, top + 0.12 + _LINE, color=_SOFT, fontsize=9)

        self.put(draw, _HEAD + (_LINE if remark else 0))

    def lines(self, text: str, most: int, **style: Any) -> None:
        """A text over the sheet's width."""
        wide = 1.15 if style.get("fontweight") == "bold" else 1.0
        for line in wrap(text, lambda part: self.width(part) * wide <= _WIDTH - 2 * _MARGIN, most):
            self.put(lambda pen, top, line=line: pen.text(line, _MARGIN, top, **style), _LINE)  # type: ignore[misc]

    def words(self, marked: Sequence[Mark]) -> None:
        """Marked words, with bars below them."""
        rows = list(self._rows(marked))
        for row in rows[:_MOST_LINES]:
            self.put(lambda pen, top, row=row: _draw_words(pen, top, row), _WORDS)  # type: ignore[misc]
        if left := sum(len(row) for row in rows[_MOST_LINES:]):
            self.lines(f"… and {left} more tokens: see explanation.html", 1, color=_SOFT)

    def _rows(self, marked: Sequence[Mark]) -> Iterator[list[tuple[float, float, Mark]]]:
        row: list[tuple[float, float, Mark]] = []
        left = _MARGIN
        for mark in marked:
            width = self.width(mark.text) + 0.03
            left += 0.05 if mark.gap else 0.01
            if left + width > _WIDTH - _MARGIN and row:
                yield row
                row, left = [], _MARGIN
            row.append((left, width, mark))
            left += width
            if mark.newline:
                yield row
                row, left = [], _MARGIN
        if row:
            yield row

    def pictures(self, pictures: Sequence[Picture]) -> None:
        """Pictures in rows, each with title and caption."""
        for start in range(0, len(pictures), _COLUMNS):
            row = pictures[start : start + _COLUMNS]
            shape = row[0].pixels.shape
            height = _PANEL * float(np.clip(shape[0] / shape[1], 0.3, 1.3))

            def draw(pen: _Pen, top: float, row: Sequence[Picture] = row, height: float = height) -> None:
                for column, picture in enumerate(row):
                    left = _MARGIN + column * (_PANEL + _GAP)
                    title, caption = (self._cut(text) for text in (picture.title, picture.caption))
                    pen.text(title, left + _PANEL / 2, top, ha="center", fontweight="bold", fontsize=9.5)
                    pen.picture(picture.pixels, left, top + _LINE * 1.1, _PANEL, height)
                    pen.text(
                        caption, left + _PANEL / 2, top + _LINE * 1.2 + height, ha="center", color=_SOFT, fontsize=9.5
                    )

            self.put(draw, height + 2.7 * _LINE)

    def _cut(self, text: str) -> str:
        """A text as far as it fits over one picture."""
        return wrap(text, lambda part: self.width(part) <= _PANEL * 1.08, 1)[0]  # it is set smaller

    def figure(self) -> Figure:
        """The figure, as high as it has to be."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        height = self.top + _MARGIN
        figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        pen = _Pen(figure, height)
        for ink in self._inks:
            ink.draw(pen, ink.top)
        return figure


def _draw_words(pen: _Pen, top: float, row: Sequence[tuple[float, float, Mark]]) -> None:
    for left, width, mark in row:
        if mark.surprise > 0.01:
            pen.box(left, top, width, 0.2, (*(c / 255 for c in SURPRISE), min(1.0, mark.surprise) * 0.8))
        pen.text(mark.text, left + 0.01, top)
        for number, value in enumerate(mark.bars):
            if value:
                below = top + 0.21 + number * (_BAR + 0.01)
                colour = TOWARDS if value > 0 else AWAY
                pen.box(left, below, width, max(abs(value) * _BAR, 0.008), [c / 255 for c in colour])


def sheet(explanation: Explanation, title: str = "") -> np.ndarray:
    """The whole explanation on one sheet.

    Args:
        explanation: what to draw.
        title: small print above it.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    with quiet_fonts():
        paper = _Sheet()
        if title:
            paper.lines(title, 1, color=_SOFT, fontsize=9)
        paper.lines(f"Question: {explanation.question}", 3, fontweight="bold")
        paper.words(marks(explanation.words))
        if explanation.region:
            paper.lines(HOW_TO_READ.format(region=explanation.region), 3, color=_SOFT, fontsize=9)
        for sentence in explanation.findings:
            paper.lines(f"• {sentence}", 3)
        for section in sections(explanation):
            paper.heading(section.title, section.remark)
            paper.pictures(section.pictures)
        thoughts = [one for one in explanation.counterfactuals if one.completion is not None]
        for one in thoughts:
            paper.lines(f"{one.name}: {printable(one.completion or '')}", 2, color=_SOFT)
        return render(paper.figure())
