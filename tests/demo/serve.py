"""A page served to tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coprs_lightning.demo.server import DemoOptions, Running, serving
from coprs_lightning.model import CoprsModel
from tests.parts import photos


@contextmanager
def served(model: CoprsModel, **options: Any) -> Iterator[Running]:
    """The page on a free port; the test is skipped where Gradio is missing."""
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    examples = options.pop("examples", [])
    with serving(model, DemoOptions(**{"port": 0, **options}), name="small", examples=examples) as running:
        yield running


def write_photo(path: Path) -> np.ndarray:
    """An image file of 50 × 50 pixels about which the talkative model writes the token."""
    pixels = photos((50, 50))[0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path)
    return pixels
