"""What the page says while a question is answered; without Gradio, which only carries it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coprs_lightning.demo.page import answering, readable
from coprs_lightning.model import CoprsModel
from tests.parts import photos
from tests.talkative import talkative_model


@pytest.fixture(scope="module")
def model() -> CoprsModel:
    return talkative_model()


@pytest.fixture
def uploaded(tmp_path: Path) -> dict[str, Any]:
    """An upload as the browser describes it."""
    path = tmp_path / "uploads" / "a1b2" / "photo.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(photos((50, 50))[0].permute(1, 2, 0).numpy()).save(path)
    return {"path": str(path), "orig_name": "my photo.png", "meta": {"_type": "gradio.FileData"}}


def states(model: CoprsModel, tmp_path: Path, image: Any, question: Any, **options: Any) -> list[tuple[str, str, str]]:
    ask = answering(model, uploads=tmp_path / "uploads", **{"max_pixels": 10_000, **options})
    return list(ask(image, question))


def test_the_last_state_is_the_answer(model: CoprsModel, tmp_path: Path, uploaded: dict[str, Any]) -> None:
    first, *_, (line, thought, pictures) = states(model, tmp_path, uploaded, "the b")
    assert "Thinking" in first[0]
    assert first[1:] == ("", "")
    expected = model.segment(Path(uploaded["path"]), "the b")
    assert f"Found: score {expected.score:.2f}." in line
    assert thought == readable(expected.completion)
    assert 'download="my_photo-mask.png"' in pictures


def test_the_text_comes_as_it_is_written(
    model: CoprsModel, tmp_path: Path, uploaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coprs_lightning.demo.page._EVERY", 0.0)
    found = states(model, tmp_path, uploaded, "the b")
    texts = [thought for line, thought, pictures in found if "Thinking" in line]
    assert len(texts) == 1 + 6
    assert len(set(texts)) > 3


def test_the_limit_of_new_tokens_is_kept(model: CoprsModel, tmp_path: Path, uploaded: dict[str, Any]) -> None:
    line, thought, _ = states(model, tmp_path, uploaded, "the b", max_new_tokens=1)[-1]
    assert thought == readable(model.segment(Path(uploaded["path"]), "the b", max_new_tokens=1).completion)
    assert "no concentration token" in line


def error(found: list[tuple[str, str, str]]) -> str:
    line, thought, pictures = found[-1]
    assert 'role="alert"' in line
    assert (thought, pictures) == ("", "")
    return line


def test_mistakes_are_told(model: CoprsModel, tmp_path: Path, uploaded: dict[str, Any]) -> None:
    assert "There is no image yet" in error(states(model, tmp_path, None, "x"))
    assert "There is no image yet" in error(states(model, tmp_path, {"path": None}, "x"))
    assert "There is no question yet" in error(states(model, tmp_path, uploaded, "  "))
    assert "There is no question yet" in error(states(model, tmp_path, uploaded, None))
    assert "2001 characters, at most 2000" in error(states(model, tmp_path, uploaded, "x" * 2001))
    assert "50 × 50 pixels, more than the 0.002 million allowed" in error(
        states(model, tmp_path, uploaded, "x", max_pixels=2000)
    )
    Path(uploaded["path"]).write_bytes(b"no image")
    found = error(states(model, tmp_path, uploaded, "x"))
    assert "my photo.png is no image in a format that Pillow knows" in found
    assert str(tmp_path) not in found


def test_files_of_the_server_are_not_read(model: CoprsModel, tmp_path: Path, uploaded: dict[str, Any]) -> None:
    private = tmp_path / "private.png"
    Image.fromarray(np.zeros((20, 20, 3), dtype=np.uint8)).save(private)
    link = tmp_path / "uploads" / "link.png"
    link.symlink_to(private)
    for path in (private, tmp_path / "uploads" / ".." / "private.png", link):
        assert "was not uploaded here" in error(states(model, tmp_path, {"path": str(path)}, "x"))


def test_what_goes_wrong_inside_is_told_at_the_terminal(
    model: CoprsModel, tmp_path: Path, uploaded: dict[str, Any], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("device lost")

    monkeypatch.setattr(model.decoder, "forward", broken)
    found = error(states(model, tmp_path, uploaded, "x"))
    assert "went wrong inside the program" in found
    assert "device lost" not in found
    assert "device lost" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("<think> it is red </think>\nHere: <REF_POS>", "it is red\nHere:"),
        ("<think> it is red </think> here", "it is red\nhere"),
        ("<think> it is r", "it is r"),
        ("<thi", ""),
        ("<think> red </thin", "red"),
        ("<think> red </think> <REF_", "red"),
        ("1 < 2", "1 < 2"),
        ("", ""),
    ],
)
def test_tags_and_tokens_are_not_shown(completion: str, text: str) -> None:
    assert readable(completion) == text
