"""The page in headless Chromium: as a file, light and dark, wide and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from coprs_lightning.cli import main
from tests.demo.browser import chromium
from tests.report.build import make_run
from tests.report.test_page import SECTIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = make_run(tmp_path_factory.mktemp("runs") / "run")
    main(["report", str(folder)])
    return (folder / "report.html").as_uri()


@pytest.fixture
def opened(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page; nothing but itself is asked for, nothing is said on the console, and no text has run."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.on("console", lambda line: said.append(line.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    page.evaluate("() => document.querySelectorAll('details').forEach(one => { one.open = true; })")
    yield page
    page.wait_for_timeout(100)
    assert page.evaluate("() => window.harmed") is None
    context.close()
    assert [url for url in asked if not url.startswith("data:")] == [address]
    assert said == []


@pytest.mark.parametrize("opened", [(1280, "light"), (1280, "dark"), (390, "light")], indirect=True)
def test_it_is_readable(opened: Any) -> None:
    width = opened.viewport_size["width"]
    assert opened.evaluate("() => document.documentElement.scrollWidth") <= width
    for name in SECTIONS:
        box = opened.locator(f"section#{name}").bounding_box()
        assert box["width"] > 0.85 * width - 260
        assert box["height"] > 40
    # contrast of the text against its ground, by WCAG's formula
    contrast = opened.evaluate(
        """() => {
          const light = color => {
            const parts = color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
              .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
          };
          const ground = light(getComputedStyle(document.body).backgroundColor);
          return ['h2', '.soft', 'td', 'summary', 'svg text'].map(where => {
            const style = getComputedStyle(document.querySelector(where));
            const ink = light(where.startsWith('svg') ? style.fill : style.color);
            return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
          });
        }"""
    )
    assert min(contrast) >= 4.5, contrast
    sizes = opened.evaluate(
        "() => [...document.querySelectorAll('figure svg')].map(s => 11 * s.clientWidth / s.viewBox.baseVal.width)"
    )
    assert len(sizes) >= 5
    assert min(sizes) >= 6.5  # pixels of the smallest letters
    pictures = opened.evaluate("() => [...document.images].map(one => one.naturalWidth)")
    assert len(pictures) == 4
    assert min(pictures) > 0


@pytest.mark.parametrize("opened", [(1280, "light"), (1280, "dark")], indirect=True)
def test_dark_is_dark(opened: Any) -> None:
    dark = opened.evaluate("() => matchMedia('(prefers-color-scheme: dark)').matches")
    ground = opened.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in ground[4:-1].split(",")) < 150) == dark


@pytest.mark.parametrize("opened", [(900, "light")], indirect=True)
def test_links_lead_to_their_sections(opened: Any) -> None:
    opened.click("nav a[href='#failures']")
    top = opened.evaluate("() => document.querySelector('#failures h2').getBoundingClientRect().top")
    bar = opened.evaluate("() => document.querySelector('nav').getBoundingClientRect().bottom")
    assert bar - 2 <= top < 200
