from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont

from datamodules.contact_sheet import IGNORE, TARGET, Panel, draw_sheet, paint_panel, wrap

FONT = ImageFont.load_default(15)


def panel(question: str = "where is it?", *, height: int = 60, width: int = 90, ignore: bool = True) -> Panel:
    mask = np.zeros((height, width), dtype=bool)
    mask[10:30, 10:40] = True
    ignored = np.zeros_like(mask)
    ignored[40:55, 50:80] = True
    return Panel(np.full((height, width, 3), 128, np.uint8), mask, ignored if ignore else None, "key/0", question)


def test_target_is_tinted_and_outlined_ignored_pixels_hatched_and_the_rest_kept() -> None:
    painted = paint_panel(panel(), 90).astype(int)
    assert painted.shape == (60, 90, 3)
    inside = np.round(0.8 * 128 + 0.2 * np.array(TARGET))
    assert np.abs(painted[15:25, 15:35] - inside).max() <= 1
    assert (painted[10, 10:40] == TARGET).all()  # the outline lies on the mask's border pixels
    hatched = (painted[40:55, 50:80] == IGNORE).all(axis=-1)
    assert hatched.mean() == pytest.approx(0.5, abs=0.05)
    assert (painted[40:55, 50:80][~hatched] == 128).all()
    assert (painted[:8] == 128).all()
    assert (painted[:, 82:] == 128).all()


@pytest.mark.parametrize(("height", "width", "expected"), [(60, 90, (200, 300)), (900, 450, (300, 150))])
def test_pictures_are_fitted(height: int, width: int, expected: tuple[int, int]) -> None:
    assert paint_panel(panel(height=height, width=width), 300).shape[:2] == expected


def test_a_tiny_mask_stays_visible() -> None:
    mask = np.zeros((1000, 1000), dtype=bool)
    mask[500, 500] = True
    painted = paint_panel(Panel(np.zeros((1000, 1000, 3), np.uint8), mask, None, "a", "b"), 100)
    assert painted.any()


def test_rows_and_columns() -> None:
    one = draw_sheet([panel()], title="x", columns=3, side=300)
    five = draw_sheet([panel()] * 5, title="x", columns=3, side=300)
    assert five.width == 3 * 312 + 12
    assert one.width == 480
    assert five.height > one.height + 200
    cells = [np.asarray(five)[100:200, left : left + 300] for left in (12, 324)]
    np.testing.assert_array_equal(*cells)


def test_text_is_drawn_below_the_picture() -> None:
    sheets = [np.asarray(draw_sheet([panel(question)], title="x", side=300)) for question in ("one thing", "two cats")]
    differs = (sheets[0] != sheets[1]).any(axis=-1)
    rows = np.flatnonzero(differs.any(axis=1))
    assert rows.min() > 200
    assert differs.sum() > 50


@pytest.mark.parametrize(
    "question", ["", "зелёная машина слева", "左边的红色汽车" * 30, "السيارة الحمراء", "🚗\x00\n\tx\udce9"]
)
def test_any_script_can_be_drawn(question: str) -> None:
    sheet = draw_sheet([panel(question, ignore=False)], title=question)
    assert sheet.width == 480


def test_no_target_is_said() -> None:
    empty = Panel(np.zeros((60, 90, 3), np.uint8), np.zeros((60, 90), bool), None, "key/0", "where?")
    full = Panel(np.zeros((60, 90, 3), np.uint8), np.ones((60, 90), bool), None, "key/0", "where?")
    dark = [(np.asarray(draw_sheet([item], title="x", side=300))[270:295] < 160).sum() for item in (full, empty)]
    assert dark[1] > dark[0] + 50  # the words "no target" stand behind the key


def test_wrapping() -> None:
    text = "the quick brown fox jumps over the lazy dog"
    lines = wrap(text, FONT, 120, max_lines=10)
    assert " ".join(lines) == text
    assert len(lines) > 2
    assert all(FONT.getlength(line) <= 120 for line in lines)
    cut = wrap(text, FONT, 120, max_lines=2)
    assert cut[0] == lines[0]
    assert cut[1].endswith("…")
    assert len(cut) == 2
    assert FONT.getlength(cut[1]) <= 120
    long = wrap("x" * 100, FONT, 120, max_lines=50)
    assert "".join(long) == "x" * 100
    assert all(FONT.getlength(line) <= 120 for line in long)
    assert wrap("", FONT, 120, max_lines=3) == [""]


def test_a_sheet_of_nothing() -> None:
    with pytest.raises(ValueError, match="a sheet needs panels, columns ≥ 1 and side ≥ 1, got 0, 4 and 340"):
        draw_sheet([], title="x")
