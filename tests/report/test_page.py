"""The page as text: what it tells, what it does when something is missing, and that nothing in it runs."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from scipy import stats

from coprs_lightning.report.example_lines import read_examples
from coprs_lightning.report.page import render
from coprs_lightning.report.run_files import read_run
from tests.report.build import make_run

SECTIONS = ["benchmark", "smoke", "curves", "correlation", "examples", "failures", "config", "provenance"]


class Tags(HTMLParser):
    """Every tag with its attributes, and that they close."""

    void = ("meta", "img", "br", "link")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> list[tuple[str, dict[str, str | None]]]:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags.found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "my run")


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return render(read_run(folder))


def test_every_section_is_there(page: str) -> None:
    tags = parsed(page)
    assert [attrs["id"] for tag, attrs in tags if tag == "section"] == SECTIONS
    assert [attrs["href"] for tag, attrs in tags if tag == "a"] == [f"#{name}" for name in SECTIONS]
    assert "<title>my run – run report</title>" in page


def test_nothing_runs_and_nothing_is_fetched(page: str) -> None:
    for tag, attrs in parsed(page):
        assert tag not in ("script", "iframe", "object", "embed", "base", "form", "video", "audio"), tag
        for name, value in attrs.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "data", "action"):
                assert value is not None
                assert value.startswith(("data:", "#")), (tag, name, value)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in page


def test_what_was_written_is_shown_as_text(page: str) -> None:
    assert "<script" not in page
    assert page.count("&lt;script&gt;window.harmed = 1") >= 8
    assert "onerror=&quot;window.harmed" in page


def test_the_numbers_are_those_of_the_files(page: str, folder: Path) -> None:
    assert "<b>43.8</b><span>gIoU, test</span>" in page
    assert "43.8<br>" in page
    assert "[40.0, 48.0]" in page
    assert "target = expression" in page
    assert "<b>1 min 15 s</b>" in page
    assert "<b>2.64 M</b>" in page
    lines = [
        one for one in read_examples(folder / "evaluation" / "examples.jsonl") if one.present and not one.no_target
    ]
    r = stats.pearsonr([one.heatmap_iou for one in lines], [one.iou for one in lines]).statistic
    assert f"R = {r:.2f} [" in page
    assert f"n = {len(lines)}" in page
    assert "training batches: heatmap and mask" in page
    assert "fedcba9876543210" in page
    assert "0123456789abcdef" in page


def test_failures_are_counted_once_each(page: str) -> None:
    section = page[page.index('id="failures"') : page.index('id="config"')]
    failed = int(re.search(r"<b>(\d+) of 24 failed</b>", section)[1])
    start = section.index("first reason that fits")
    reasons = section[start : section.index("</table>", start)]
    assert sum(int(n) for n in re.findall(r'<td class="num">(\d+)</td>', reasons)) == failed == 14


def test_panels_come_with_their_thoughts(page: str) -> None:
    section = page[page.index('id="examples"') : page.index('id="failures"')]
    assert re.findall(r"<summary>(\w+ of test \(\d\))", section) == [
        "Worst of test (2)",
        "Best of test (1)",
        "Random of test (1)",
    ]
    assert section.count('src="data:image/webp;base64,') == 4
    assert "Find the red circle 19." in section
    assert "no concentration token" in section


def test_the_same_folder_gives_the_same_page(page: str, folder: Path) -> None:
    assert render(read_run(folder)) == page


def test_without_an_evaluation_the_page_says_which_command_makes_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", evaluated=False)
    page = render(read_run(folder))
    assert page.count(f"<code>coprs evaluate --checkpoint {folder}</code>") == 3  # benchmark, examples, failures
    assert "First examples of the newest validation" in page
    assert "val-step-000030" in page.replace(" ", "-")
    assert "<b>50.0</b><span>gIoU, validation</span>" in page
    parsed(page)


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", evaluated=False)
    shutil.rmtree(folder / "logs")
    (folder / "results.json").unlink()
    page = render(read_run(folder))
    assert "The run logged no values" in page
    assert "There are not enough points" in page
    assert "recorded nothing about itself" in page
    assert 'id="smoke"' not in page
    parsed(page)
