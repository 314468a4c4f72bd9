"""How far it is, where nobody watches a bar."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from coprs_lightning.evaluation import progress
from coprs_lightning.evaluation.progress import Progress


def test_lines_tell_the_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 40.0, 50.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    shown = Progress(8000)
    shown.advance(100)  # too early for a line
    shown.advance(900)
    assert capsys.readouterr().err == "coprs: 1,000 of 8,000 examples, 0:04:40 left\n"
    shown.advance(9000)
    assert shown.done == 8000  # other processes were counted for


def test_only_a_terminal_gets_a_bar() -> None:
    with progress.progress(3) as shown:
        shown.advance(2)
        assert type(shown) is Progress
        assert shown.done == 2
