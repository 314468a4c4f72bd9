"""Pictures of one answer: image, heatmap, mask, truth and text. Pure functions; matplotlib without its global state."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from callbacks.text_layout import printable, wrap
from coprs_lightning.metrics.iou import example_iou, intersection_and_union
from coprs_lightning.prompts import ParsedCompletion, parse_completion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRUTH_COLOR = (38, 222, 129)
"""Green of the ground truth; with the prediction's magenta a pair that colour-blind readers tell apart."""
PREDICTION_COLOR = (255, 61, 146)
IGNORE_COLOR = (128, 128, 128)

_DPI = 110
_PANEL, _MARGIN, _GAP = 3.31, 0.2, 0.12  # inches: width of a picture, border, space between pictures
_TITLE, _LINE, _LABEL = 0.34, 0.21, 1.0  # inches: heading, text line, column of labels
_FONT_SIZE, _ASCENT = 10.5, 0.14  # points, inches from a line's top to its baseline
_DISPLAY_SIDE = 640  # pixels: no more are visible in a panel
_FALLBACK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "Droid Sans Fallback", "PingFang SC", "Microsoft YaHei", "Arial Unicode MS", "Noto Sans Arabic",
    "Noto Sans Devanagari",
)  # fmt: skip


def overlay(image: np.ndarray, mask: np.ndarray, color: tuple[int, int, int], alpha: float) -> np.ndarray:
    """Tint the masked pixels.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool.
        color: RGB of the tint.
        alpha: 0 leaves the image as it is, 1 hides it under the tint.

    Returns:
        (H, W, 3) uint8.
    """
    tinted = image.copy()
    blend = image[mask] * (1 - alpha) + np.asarray(color, dtype=np.float32) * alpha
    tinted[mask] = np.rint(blend).astype(np.uint8)
    return tinted


def heatmap_colors(prob: np.ndarray) -> np.ndarray:
    """Colours of a heatmap.

    Args:
        prob: (H, W) float in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB, dark where the probability is 0, pale yellow where it is 1.
    """
    from matplotlib import colormaps

    return colormaps["inferno"](np.clip(np.nan_to_num(prob), 0, 1), bytes=True)[..., :3]


def draw_panel(
    image: np.ndarray,
    heatmap: np.ndarray,
    mask: np.ndarray,
    truth: np.ndarray | None,
    question: str,
    completion_text: str,
    title: str = "",
    *,
    ignore: np.ndarray | None = None,
    notes: Sequence[tuple[str, str]] = (),
    num_tokens: int = 1,
) -> Figure:
    """One answer as a figure: pictures side by side, texts below.

    Args:
        image: (H, W, 3) uint8 RGB.
        heatmap: (H, W) float in [0, 1], the positional prior.
        mask: (H, W) bool, predicted mask.
        truth: (H, W) bool, ground truth; ``None`` leaves its picture, its contour and the IoUs out.
        question: what was asked.
        completion_text: what the policy wrote.
        title: heading of the figure.
        ignore: (H, W) bool, pixels that do not count.
        notes: further lines below the texts, each with its label.
        num_tokens: K, concentration tokens that the completion was asked to have.

    Returns:
        a figure with an Agg canvas, for :func:`save_panel`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pictures = _pictures(image, heatmap, mask, truth, ignore)
    width = 2 * _MARGIN + len(pictures) * _PANEL + (len(pictures) - 1) * _GAP
    panel_height = _PANEL * float(np.clip(image.shape[0] / image.shape[1], 0.35, 1.6))
    with quiet_fonts():
        parsed = parse_completion(completion_text, num_tokens)
        lines = _text_lines(question, completion_text, parsed, notes, width - 2 * _MARGIN - _LABEL)
    top = _MARGIN / 2 + (_TITLE if title else 0)
    bottom = top + _LINE * 1.3 + panel_height
    height = bottom + _LINE * 1.8 + _LINE * len(lines) + _MARGIN / 2
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def write(text: str, x: float, y: float, **style: Any) -> None:
        # by the baseline: letters of another font must not move a line against its label
        place = x / width, 1 - (y + _ASCENT) / height
        figure.text(*place, text, parse_math=False, va="baseline", **{**text_font(), **style})

    if title:
        write(printable(title), _MARGIN, _MARGIN / 2, fontsize=_FONT_SIZE + 2, fontweight="bold")
    for column, picture in enumerate(pictures):
        left = _MARGIN + column * (_PANEL + _GAP)
        write(picture.heading, left + _PANEL / 2, top, ha="center", fontweight="bold")
        _show(figure.add_axes((left / width, 1 - bottom / height, _PANEL / width, panel_height / height)), picture)
        write(picture.caption, left + _PANEL / 2, bottom + _LINE * 0.3, ha="center", color="#444444")
    for row, (label, line) in enumerate(lines):
        below = bottom + _LINE * (1.8 + row)
        write(label, _MARGIN, below, fontweight="bold", color="#444444")
        write(line, _MARGIN + _LABEL, below)
    return figure


def render(figure: Figure) -> np.ndarray:
    """Pixels of a figure of :func:`draw_panel`: (h, w, 3) uint8 RGB."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = figure.canvas
    if not isinstance(canvas, FigureCanvasAgg):
        canvas = FigureCanvasAgg(figure)
    with quiet_fonts():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_pixels(pixels: np.ndarray, path: Path) -> None:
    """Write (h, w, 3) uint8 RGB as PNG; the folder is made."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_panel(figure: Figure, path: Path) -> np.ndarray:
    """Write a figure of :func:`draw_panel` as PNG.

    Args:
        figure: the figure.
        path: where to; its folder is made.

    Returns:
        (h, w, 3) uint8, the pixels that were written.
    """
    pixels = render(figure)
    save_pixels(pixels, path)
    return pixels


@dataclass
class _Picture:
    """One column: pixels, heading, caption and contours ``(mask in [0, 1], RGB)``."""

    pixels: np.ndarray
    heading: str
    caption: str
    contours: list[tuple[np.ndarray, tuple[int, int, int]]]


def _pictures(
    image: np.ndarray, heatmap: np.ndarray, mask: np.ndarray, truth: np.ndarray | None, ignore: np.ndarray | None
) -> list[_Picture]:
    small = _shrink(image)
    prob, predicted = _shrink(heatmap.astype(np.float32)), _shrink(mask.astype(np.float32))
    gray = np.repeat(small.mean(axis=2, keepdims=True), 3, axis=2) * 0.45
    heat = np.clip(gray + heatmap_colors(prob) * 0.75, 0, 255).astype(np.uint8)
    prior = f"peak {heatmap.max():.2f}, mean {heatmap.mean():.3f}" if heatmap.max() > 1e-6 else "empty"
    share = f"{mask.mean():.1%} of the image" if mask.any() else "empty"
    filled = overlay(small, predicted > 0.5, PREDICTION_COLOR, 0.5)
    if truth is None:
        return [
            _Picture(small, "image", "", []),
            _Picture(heat, "heatmap", prior, []),
            _Picture(filled, "prediction", share, [(predicted, PREDICTION_COLOR)]),
        ]
    actual = _shrink(truth.astype(np.float32))
    answer = overlay(small, actual > 0.5, TRUTH_COLOR, 0.5)
    if ignore is not None and ignore.any():
        answer = overlay(answer, _shrink(ignore.astype(np.float32)) > 0.5, IGNORE_COLOR, 0.8)
    outline = (actual, TRUTH_COLOR)
    return [
        _Picture(small, "image", "contour: ground truth", [outline]),
        _Picture(heat, "heatmap", f"{_iou(heatmap > 0.5, truth, ignore)} · {prior}", [outline]),
        _Picture(filled, "prediction", f"{_iou(mask, truth, ignore)} · {share}", [(predicted, PREDICTION_COLOR)]),
        _Picture(answer, "ground truth", f"{truth.mean():.1%} of the image" if truth.any() else "empty", [outline]),
    ]


def _iou(pred: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None) -> str:
    masks = [torch.from_numpy(np.ascontiguousarray(m, dtype=bool)) for m in (pred, truth)]
    ignored = None if ignore is None else torch.from_numpy(np.ascontiguousarray(ignore, dtype=bool))
    intersection, union = intersection_and_union(masks[0], masks[1], ignored)
    return f"IoU {example_iou(int(intersection), int(union)):.3f}"


def _shrink(array: np.ndarray) -> np.ndarray:
    import cv2

    scale = _DISPLAY_SIDE / max(array.shape[:2])
    if scale >= 1:
        return array
    size = (max(1, round(array.shape[1] * scale)), max(1, round(array.shape[0] * scale)))
    return np.asarray(cv2.resize(array, size, interpolation=cv2.INTER_AREA))


def _show(axes: Axes, picture: _Picture) -> None:
    axes.imshow(picture.pixels, interpolation="antialiased")
    for shape, color in picture.contours:
        # a level below the peak keeps objects visible that shrinking left less than half a pixel of
        if shape.max() > shape.min():
            level = float(shape.min() + shape.max()) / 2
            padded = np.pad(shape, 1)  # closes contours at the image's border
            grid = np.arange(-1, shape.shape[1] + 1), np.arange(-1, shape.shape[0] + 1)
            axes.contour(*grid, padded, levels=[level], colors=["white"], linewidths=2.6)
            axes.contour(*grid, padded, levels=[level], colors=[tuple(c / 255 for c in color)], linewidths=1.4)
    axes.set_xlim(-0.5, picture.pixels.shape[1] - 0.5)
    axes.set_ylim(picture.pixels.shape[0] - 0.5, -0.5)
    axes.set_axis_off()


def text_font() -> dict[str, Any]:
    """Size and family of texts, with what is installed for other scripts."""
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return {"fontsize": _FONT_SIZE, "fontfamily": ["DejaVu Sans", *(f for f in _FALLBACK_FONTS if f in installed)]}


def _text_lines(
    question: str, completion_text: str, parsed: ParsedCompletion, notes: Sequence[tuple[str, str]], width: float
) -> list[tuple[str, str]]:
    """(label, line) of every line below the pictures, at most ``width`` inches wide; labels on first lines only."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    font = text_font()
    properties = FontProperties(family=font["fontfamily"], size=font["fontsize"])
    renderer = RendererAgg(8, 8, _DPI)

    def fits(text: str) -> bool:
        return bool(renderer.get_text_width_height_descent(text, properties, ismath=False)[0] <= width * _DPI)

    texts = [("Question", question, 2)]
    if parsed.well_formed:
        texts += [("Thought", parsed.thought, 6), ("Answer", parsed.answer, 2)]
    else:
        texts += [("Malformed", completion_text or "(nothing was written)", 6)]
    texts += [(label, note, 3) for label, note in notes]
    return [
        (label if i == 0 else "", line) for label, text, most in texts for i, line in enumerate(wrap(text, fits, most))
    ]


@contextmanager
def quiet_fonts() -> Iterator[None]:
    """No warnings about letters that no font has."""
    with warnings.catch_warnings():
        # a script without an installed font is drawn as boxes; the run goes on
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing")
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support .* natively")
        yield
