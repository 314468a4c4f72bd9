"""Draws a contact sheet: pictures with their masks tinted and outlined, the question readable below each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

TARGET = (255, 0, 200)
IGNORE = (0, 220, 255)
_PAPER, _INK, _PALE = (255, 255, 255), (20, 20, 20), (110, 110, 110)
_MARGIN = 12
_TITLE, _TEXT, _SMALL = 20, 15, 12
_MAX_LINES = 5


@dataclass(frozen=True)
class Panel:
    """One picture of the sheet.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, the target; all ``False`` when there is none.
        ignore: (H, W) bool or ``None``.
        title: small line above the question, the example's key.
        question: any text in any script.
    """

    image: np.ndarray
    mask: np.ndarray
    ignore: np.ndarray | None
    title: str
    question: str


def draw_sheet(panels: Sequence[Panel], *, title: str, columns: int = 4, side: int = 340) -> Image.Image:
    """Lay panels out in rows.

    Args:
        panels: at least one.
        title: headline.
        columns: panels a row.
        side: longer side of each picture in pixels.

    Raises:
        ValueError: no panels, or columns or side below 1.
    """
    if not panels or columns < 1 or side < 1:
        raise ValueError(f"a sheet needs panels, columns ≥ 1 and side ≥ 1, got {len(panels)}, {columns} and {side}.")
    columns = min(columns, len(panels))
    cells = [_draw_cell(panel, side) for panel in panels]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    head = 2 * _MARGIN + _TITLE + _SMALL + 12
    width = max(columns * (side + _MARGIN) + _MARGIN, 480)
    sheet = Image.new("RGB", (width, head + sum(heights) + _MARGIN * len(rows)), _PAPER)
    _draw_head(sheet, title)
    top = head
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_MARGIN + column * (side + _MARGIN), top))
        top += height + _MARGIN
    return sheet


def _draw_head(sheet: Image.Image, title: str) -> None:
    draw = ImageDraw.Draw(sheet)
    lines = wrap(title, _font(_TITLE), sheet.width - 2 * _MARGIN, max_lines=1)
    draw.text((_MARGIN, _MARGIN), lines[0], fill=_INK, font=_font(_TITLE))
    left, top = _MARGIN, _MARGIN + _TITLE + 10
    for name, hatched in (("target", False), ("ignored", True)):
        swatch = np.full((_SMALL + 2, 28, 3), 170, dtype=np.uint8)
        everything = np.ones(swatch.shape[:2], dtype=bool)
        (_hatch if hatched else _tint)(swatch, everything)
        sheet.paste(Image.fromarray(swatch), (left, top))
        draw.text((left + 34, top - 1), name, fill=_INK, font=_font(_SMALL))
        left += 110


def _draw_cell(panel: Panel, side: int) -> Image.Image:
    picture = Image.fromarray(paint_panel(panel, side))
    title = panel.title if panel.mask.any() else f"{panel.title} · no target"
    lines = wrap(panel.question, _font(_TEXT), side, max_lines=_MAX_LINES)
    step = _TEXT + 4
    cell = Image.new("RGB", (side, picture.height + _SMALL + 10 + step * len(lines)), _PAPER)
    cell.paste(picture, ((side - picture.width) // 2, 0))
    draw = ImageDraw.Draw(cell)
    small = wrap(title, _font(_SMALL), side, max_lines=1)
    draw.text((0, picture.height + 4), small[0], fill=_PALE, font=_font(_SMALL))
    for number, line in enumerate(lines):
        draw.text((0, picture.height + _SMALL + 8 + number * step), line, fill=_INK, font=_font(_TEXT))
    return cell


def paint_panel(panel: Panel, side: int) -> np.ndarray:
    """The picture alone, longer side ``side``: target tinted and outlined, ignored pixels hatched. (h, w, 3) uint8."""
    height, width = panel.mask.shape
    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    picture = cv2.resize(panel.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    if panel.ignore is not None:
        _hatch(picture, _resize_mask(panel.ignore, size))
    mask = _resize_mask(panel.mask, size)
    _tint(picture, mask)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, (255, 255, 255), 3)
    cv2.drawContours(picture, outlines, -1, TARGET, 1)
    return np.asarray(picture)


def _resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    covered = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    resized = covered >= 0.5
    return resized if resized.any() else covered > 0  # a mask of a few pixels stays visible


def _tint(picture: np.ndarray, mask: np.ndarray) -> None:
    # light, for questions ask about colours; the outline does the work
    picture[mask] = (0.8 * picture[mask] + 0.2 * np.array(TARGET)).astype(np.uint8)


def _hatch(picture: np.ndarray, mask: np.ndarray) -> None:
    rows, columns = np.indices(mask.shape)
    picture[mask & ((rows + columns) % 6 < 3)] = IGNORE


def wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, *, max_lines: int) -> list[str]:
    """Break text into lines of at most ``width`` pixels; longer words, and scripts without spaces, break inside.

    Returns:
        1 to ``max_lines`` lines; the last ends in … when text is left over.
    """
    lines = [""]
    for word in text.split():
        candidate = f"{lines[-1]} {word}".strip()
        if font.getlength(candidate) <= width:
            lines[-1] = candidate
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    if len(lines) > max_lines:
        last = lines[max_lines - 1]
        while last and font.getlength(last + "…") > width:
            last = last[:-1]
        lines = [*lines[: max_lines - 1], last + "…"]
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which matplotlib brings along and which knows Latin, Greek, Cyrillic, Arabic …; else PIL's own."""
    matplotlib = find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        path = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)
