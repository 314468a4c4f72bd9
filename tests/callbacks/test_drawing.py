"""Pictures: colours where they belong, texts that cannot break them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from callbacks.drawing import PREDICTION_COLOR, TRUTH_COLOR, draw_panel, heatmap_colors, overlay, save_panel

GOOD = "<think> it floats </think>\nHere is the reference position: <REF_POS>"


def scene(height=40, width=60):
    image = np.full((height, width, 3), 200, dtype=np.uint8)
    truth = np.zeros((height, width), dtype=bool)
    truth[height // 4 : height // 2, width // 4 : width // 2] = True
    return image, truth.astype(np.float32), np.roll(truth, 3, axis=1), truth


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_overlay_tints_the_mask_and_nothing_else():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    mask = np.zeros((2, 4), dtype=bool)
    mask[0, 1] = True
    tinted = overlay(image, mask, (255, 0, 100), 0.5)
    assert tinted.dtype == np.uint8
    assert tinted[0, 1].tolist() == [129, 2, 52]  # half of (3, 4, 5), rounded to even
    assert (tinted[~mask] == image[~mask]).all()
    assert image[0, 1].tolist() == [3, 4, 5]
    assert (overlay(image, mask, (9, 9, 9), 0.0) == image).all()
    assert overlay(image, mask, (9, 8, 7), 1.0)[0, 1].tolist() == [9, 8, 7]


def test_heatmap_colours_get_brighter_and_bear_any_number():
    ramp = np.linspace(0, 1, 50)[None].astype(np.float32)
    brightness = heatmap_colors(ramp).astype(float).mean(axis=2)[0]
    assert heatmap_colors(ramp).shape == (1, 50, 3)
    assert brightness[0] < 5
    assert brightness[-1] > 200
    assert (np.diff(brightness) > -3).all()
    assert (heatmap_colors(np.array([[np.nan, -4.0, 0.0]])) == heatmap_colors(np.zeros((1, 3)))).all()
    assert (heatmap_colors(np.array([[7.0]])) == heatmap_colors(np.ones((1, 1)))).all()


def test_a_panel_shows_texts_and_scores(tmp_path):
    image, heatmap, mask, truth = scene()
    figure = draw_panel(image, heatmap, mask, truth, "What floats?", GOOD, "key · step 5")
    shown = texts(figure)
    for expected in ("What floats?", "it floats", "Here is the reference position:", "key · step 5"):
        assert expected in shown
    assert [t for t in shown if t in ("image", "heatmap", "prediction", "ground truth")] == [
        "image", "heatmap", "prediction", "ground truth",
    ]  # fmt: skip
    assert any(text.startswith("IoU 0.667 · ") for text in shown)  # 120 of 180 pixels
    assert any(text.startswith("IoU 1.000 · peak 1.00") for text in shown)
    pixels = save_panel(figure, tmp_path / "new" / "a.png")
    assert (np.asarray(Image.open(tmp_path / "new" / "a.png")) == pixels).all()
    assert pixels.shape[1] > 1200


def test_contours_have_the_colours_of_truth_and_prediction(tmp_path):
    image, heatmap, mask, truth = scene(300, 400)
    figure = draw_panel(image, heatmap, mask, truth, "q", GOOD)
    pixels = save_panel(figure, tmp_path / "a.png").astype(int)
    quarters = np.array_split(pixels, 4, axis=1)

    def holds(part, color):
        return bool((np.abs(part - np.array(color)).max(axis=2) < 12).any())

    assert [holds(part, TRUTH_COLOR) for part in quarters] == [True, True, False, True]
    assert [holds(part, PREDICTION_COLOR) for part in quarters] == [False, False, True, False]


def test_ignored_pixels_do_not_count_and_are_grey(tmp_path):
    image, heatmap, mask, truth = scene()
    figure = draw_panel(image, heatmap, mask, truth, "q", GOOD, ignore=mask ^ truth)
    assert any(text.startswith("IoU 1.000 · 6.2%") or text.startswith("IoU 1.000 · 6.3%") for text in texts(figure))
    plain = save_panel(draw_panel(image, heatmap, mask, truth, "q", GOOD), tmp_path / "a.png")
    greyed = save_panel(figure, tmp_path / "b.png")
    assert (plain != greyed)[:, -300:].any()


def test_without_truth_three_pictures_are_drawn():
    image, heatmap, mask, _ = scene()
    figure = draw_panel(image, heatmap, mask, None, "q", GOOD)
    assert len(figure.axes) == 3
    assert not any("IoU" in text for text in texts(figure))


def test_a_completion_with_as_many_tokens_as_were_asked_for_is_well_formed():
    image, heatmap, mask, truth = scene()
    two = "<think> two of them </think> <REF_POS><REF_POS>"
    shown = texts(draw_panel(image, heatmap, mask, truth, "q", two, num_tokens=2))
    assert "two of them" in shown
    assert "Malformed" not in shown
    assert "Malformed" in texts(draw_panel(image, heatmap, mask, truth, "q", two))


def test_an_answer_without_prior_and_mask_says_so(tmp_path):
    image, heatmap, mask, truth = scene()
    figure = draw_panel(image, heatmap * 0, mask & False, truth, "q", "I do not know")
    assert texts(figure).count("IoU 0.000 · empty") == 2
    assert "Malformed" in texts(figure)
    assert "I do not know" in texts(figure)
    save_panel(figure, tmp_path / "a.png")
    assert "(nothing was written)" in texts(draw_panel(image, heatmap, mask, truth, "q", ""))


@pytest.mark.parametrize(
    "text",
    [
        "costs $5 or $x_{1}$ \\frac{1}{2} ^_^ {unclosed $",
        "word " * 20_000,
        "x" * 20_000,
        "图片中哪个物体可以加热食物？" * 40,
        "שלום العربية हिन्दी ไทย 😀👩‍👩‍👧",
        "control \x00\x07 and lone surrogate \udc80 and \u202e right-to-left",
        "",
        "%s %d {} {0} \\ \\n <b>bold</b>",
    ],
)
def test_no_text_breaks_a_panel_or_grows_it_without_bound(tmp_path, text):
    image, heatmap, mask, truth = scene()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # missing glyphs are not worth a line in every validation
        for completion in (f"<think> {text} </think> {text} <REF_POS>", text):
            figure = draw_panel(image, heatmap, mask, truth, text, completion, text[:40])
            pixels = save_panel(figure, tmp_path / "a.png")
            assert pixels.shape[0] < 900
            right = pixels[-200:, -8:]
            assert (right == 255).all()  # nothing runs over the edge


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 5), (700, 1500), (1500, 400)])
def test_any_image_size_is_drawn(tmp_path, size):
    image, heatmap, mask, truth = scene(*size)
    pixels = save_panel(draw_panel(image, heatmap, mask, truth, "q", GOOD), tmp_path / "a.png")
    assert 200 < pixels.shape[0] < 1000


def test_an_object_smaller_than_a_display_pixel_keeps_its_outline(tmp_path):
    image = np.full((3000, 2000, 3), 255, dtype=np.uint8)
    truth = np.zeros((3000, 2000), dtype=bool)
    truth[1500:1502, 1000:1002] = True
    pixels = save_panel(draw_panel(image, truth * 0.0, truth & False, truth, "q", GOOD), tmp_path / "a.png")
    first = pixels[60:-150, : pixels.shape[1] // 4].astype(int)
    assert (first[..., 1] - first[..., 0] > 60).any()  # green
