"""Pictures, downloads and verdicts of an answer."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

from coprs_lightning.demo.pictures import figures, status, verdict
from coprs_lightning.inference import Answer, ObjectAnswer

HEIGHT, WIDTH = 30, 40


def one(columns: slice, score: float = 0.9) -> ObjectAnswer:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    mask[5:20, columns] = score
    return ObjectAnswer(mask > 0.5, mask, mask, score)


def answer(*objects: ObjectAnswer, present: bool = True, truncated: bool = False) -> Answer:
    mask = np.maximum.reduce(
        [np.zeros((HEIGHT, WIDTH), dtype=np.float32), *(item.mask_probability for item in objects)]
    )
    score = max((item.score for item in objects), default=0.0)
    return Answer("q", "t", "t", "", truncated, present, mask > 0.5, mask, mask, score, list(objects))


def contents(html: str, pattern: str) -> list[np.ndarray]:
    found = re.findall(pattern + r'[^>]*?(?:src|href)="data:image/\w+;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(item)))) for item in found]


IMAGE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def test_the_download_is_the_mask() -> None:
    given = answer(one(slice(3, 12)))
    html = figures(IMAGE, given, "photo")
    (mask,) = contents(html, "<a ")
    assert np.array_equal(mask, given.mask * np.uint8(255))
    assert 'download="photo-mask.png"' in html
    assert "11.2 % of the image" in html
    assert "<table" not in html


def test_heatmap_and_mask_lie_over_the_image() -> None:
    html = figures(IMAGE, answer(one(slice(3, 12))), "photo")
    ground, heat, mask = contents(html, "<img ")
    assert ground.shape == heat.shape == mask.shape
    times = ground.shape[0] // HEIGHT
    assert ground.shape == (times * HEIGHT, times * WIDTH, 3)
    inside, outside = (slice(8 * times, 17 * times), slice(5 * times, 10 * times)), np.s_[:, 20 * times :]
    assert heat[inside].mean() > 150 > 50 > heat[outside].mean()
    assert np.abs(mask[outside].astype(float) * 2 - ground[outside]).mean() < 8  # darkened


def test_large_images_are_shown_smaller_and_downloaded_whole() -> None:
    mask = np.zeros((1500, 3000), dtype=np.float32)
    mask[:700, :900] = 1
    large = ObjectAnswer(mask > 0.5, mask, mask, 1.0)
    given = Answer("q", "t", "t", "", False, True, large.mask, mask, mask, 1.0, [large])
    html = figures(np.zeros((1500, 3000, 3), dtype=np.uint8), given, "photo")
    assert {picture.shape for picture in contents(html, "<img ")} == {(480, 960, 3)}
    assert contents(html, "<a ")[0].shape == (1500, 3000)


def test_several_objects_are_listed_each_with_its_mask() -> None:
    given = answer(one(slice(3, 12), 0.9), one(slice(20, 30), 0.75))
    html = figures(IMAGE, given, "photo")
    union, first, second = contents(html, "<a ")
    assert np.array_equal(union > 0, given.mask)
    assert np.array_equal(first > 0, given.objects[0].mask)
    assert np.array_equal(second > 0, given.objects[1].mask)
    assert "<td>0.90</td>" in html
    assert "<td>0.75</td>" in html
    assert 'download="photo-object-2.png"' in html


def test_without_a_mask_there_is_nothing_to_download() -> None:
    html = figures(IMAGE, answer(), "photo")
    assert "<a " not in html
    assert "Mask: empty" in html
    assert len(contents(html, "<img ")) == 3


def test_names_are_escaped() -> None:
    assert "<script>" not in figures(IMAGE, answer(one(slice(3, 9))), '"><script>')
    assert status("<b>", "error") == '<p class="coprs-error" role="alert">&lt;b&gt;</p>'
    assert 'role="status"' in status("x")


def test_verdicts() -> None:
    assert verdict(answer(one(slice(3, 9), 0.8))) == "Found: score 0.80."
    assert verdict(answer(one(slice(3, 9), 0.9), one(slice(20, 30), 0.7))) == "Found: 2 objects, best score 0.90."
    assert verdict(answer()).startswith("Nothing fits:")
    assert verdict(answer(present=False)).startswith("No mask: the model wrote no concentration token")
    assert verdict(answer(present=False, truncated=True)).endswith("cut at the length limit.")
