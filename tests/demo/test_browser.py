"""The page in headless Chromium, as a visitor uses it: upload, ask, see a mask."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coprs_lightning.demo.page import readable
from coprs_lightning.demo.server import Running
from coprs_lightning.model import CoprsModel
from tests.demo.browser import chromium
from tests.demo.serve import served, write_photo
from tests.talkative import talkative_model

pytestmark = pytest.mark.slow

TIMEOUT = 60_000
"""Milliseconds."""
PARTS = ("image", "question", "ask", "status", "thought", "opacity", "pictures")


class Calls:
    """Counts passes of the language model, and slows them down so that the text is seen to grow."""

    def __init__(self, model: CoprsModel) -> None:
        self.number = 0
        model.policy.lm.lm_head.register_forward_hook(self)

    def __call__(self, *_: Any) -> None:
        self.number += 1
        time.sleep(0.15)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def model() -> CoprsModel:
    return talkative_model()


@pytest.fixture(scope="module")
def calls(model: CoprsModel) -> Calls:
    return Calls(model)


@pytest.fixture(scope="module")
def running(model: CoprsModel, calls: Calls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    example = tmp_path_factory.mktemp("examples") / "first.png"
    write_photo(example)
    with served(model, max_upload=100_000, max_pixels=100_000, examples=[(example, "an example's question")]) as page:
        yield page


@pytest.fixture
def page(browser: Any, running: Running) -> Iterator[Any]:
    """The opened page; every request is to this machine, and nothing fails in the page itself."""
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(TIMEOUT)
    opened.asked, opened.failed = [], []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("pageerror", lambda error: opened.failed.append(str(error)))
    opened.on("console", lambda line: opened.failed.append(line.text) if line.type == "error" else None)
    opened.goto(running.url)
    opened.wait_for_selector("#coprs-ask")
    yield opened
    elsewhere = [url for url in opened.asked if not url.startswith((running.url, "data:", "blob:"))]
    opened.close()
    assert elsewhere == []
    assert opened.failed == []


def upload(page: Any, file: Path) -> None:
    page.set_input_files("#coprs-image input[type=file]", str(file))
    page.wait_for_selector("#coprs-image img")


def ask(page: Any, question: str) -> None:
    page.fill("#coprs-question textarea", question)
    page.click("#coprs-ask")


def alert(page: Any) -> str:
    page.wait_for_selector("#coprs-status [role=alert]")
    return str(page.inner_text("#coprs-status"))


def test_upload_ask_see_a_mask(page: Any, model: CoprsModel, calls: Calls, tmp_path: Path) -> None:
    pixels = write_photo(tmp_path / "my photo.png")
    expected = model.segment(pixels, "the b")
    upload(page, tmp_path / "my photo.png")
    page.evaluate(
        "() => { window.texts = new Set(); setInterval(() => "
        "window.texts.add(document.querySelector('#coprs-thought textarea').value), 20); }"
    )
    ask(page, "the b")
    page.wait_for_selector("#coprs-download")
    assert page.inner_text("#coprs-status") == f"Found: score {expected.score:.2f}."
    assert page.input_value("#coprs-thought textarea") == readable(expected.completion)
    assert len(page.evaluate("() => [...window.texts]")) >= 4  # it was seen to grow
    for picture in (".coprs-heat", ".coprs-mask"):
        assert page.evaluate(f"() => document.querySelector('{picture}').naturalWidth") == 950

    with page.expect_download() as download:
        page.click("#coprs-download")
    assert download.value.suggested_filename == "my_photo-mask.png"
    mask = np.asarray(Image.open(download.value.path()))
    assert mask.shape == (50, 50)
    assert np.array_equal(mask > 0, expected.mask)

    before, requests = calls.number, len(page.asked)
    page.locator("#coprs-opacity input[type=range]").fill("0.2")
    page.wait_for_function("() => getComputedStyle(document.querySelector('.coprs-heat')).opacity === '0.2'")
    assert calls.number == before
    assert page.asked[requests:] == []


def test_a_new_image_takes_the_old_answer_away(page: Any, tmp_path: Path) -> None:
    write_photo(tmp_path / "first.png")
    upload(page, tmp_path / "first.png")
    ask(page, "the b")
    page.wait_for_selector("#coprs-download")
    page.click("#coprs-image button[aria-label*=lear], #coprs-image button[aria-label*=emove]")
    page.wait_for_selector("#coprs-download", state="detached")
    assert page.input_value("#coprs-thought textarea") == ""


def test_an_example_fills_image_and_question(page: Any) -> None:
    page.get_by_text("an example's question").click()
    page.wait_for_selector("#coprs-image img")
    page.wait_for_function(
        "() => document.querySelector('#coprs-question textarea').value === \"an example's question\""
    )
    page.press("#coprs-question textarea", "Enter")
    page.wait_for_selector("#coprs-pictures .coprs-mask")


def test_mistakes_are_told_in_the_page(page: Any, tmp_path: Path) -> None:
    ask(page, "the b")
    assert "There is no image yet" in alert(page)
    write_photo(tmp_path / "photo.png")
    upload(page, tmp_path / "photo.png")
    ask(page, "  ")
    page.wait_for_function("() => document.querySelector('#coprs-status').innerText.includes('no question yet')")


@pytest.mark.parametrize("kind", ["broken", "wide"])
def test_bad_images_are_told_in_the_page(page: Any, kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"{kind}.png"
    if kind == "broken":
        write_photo(file)
        file.write_bytes(file.read_bytes()[:2000])
    else:
        Image.new("L", (1000, 600)).save(file)
    page.set_input_files("#coprs-image input[type=file]", str(file))
    page.wait_for_selector("#coprs-image button[aria-label*=lear], #coprs-image button[aria-label*=emove]")
    ask(page, "the b")
    expected = {"broken": "broken.png cannot be read", "wide": "more than the 0.1 million allowed"}[kind]
    assert expected in alert(page)


def test_large_files_are_refused_with_a_message(page: Any, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    page.set_input_files("#coprs-image input[type=file]", str(tmp_path / "x.png"))
    assert "exceed the maximum allowed size" in page.locator(".toast-body").inner_text()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_overlaps(page: Any, width: int, tmp_path: Path) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    write_photo(tmp_path / "photo.png")
    upload(page, tmp_path / "photo.png")
    ask(page, "the b")
    page.wait_for_selector("#coprs-download")
    boxes = {part: page.locator(f"#coprs-{part}").bounding_box() for part in PARTS}
    for first, a in boxes.items():
        assert a["width"] > 40
        assert a["x"] >= 0
        assert a["x"] + a["width"] <= width
        for second, b in boxes.items():
            beside = a["x"] + a["width"] <= b["x"] + 1 or b["x"] + b["width"] <= a["x"] + 1
            above = a["y"] + a["height"] <= b["y"] + 1 or b["y"] + b["height"] <= a["y"] + 1
            assert first == second or beside or above, f"{first} overlaps {second}"
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
