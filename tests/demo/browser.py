"""A headless browser for tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Any]:
    """Headless Chromium: the system's, else the one of `playwright install`; without either the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        program = next((found for name in _PROGRAMS if (found := shutil.which(name))), driver.chromium.executable_path)
        if not Path(program).is_file():
            pytest.skip("there is no Chromium: apt-get install chromium, or playwright install chromium")
        # tests may run as root, in containers with a small /dev/shm
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()
