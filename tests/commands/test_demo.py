"""`coprs demo`: its options, its examples, and the command itself, served and ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from coprs_lightning.commands import CommandError
from coprs_lightning.commands.demo import read_examples
from tests.conftest import REPO
from tests.demo.serve import write_photo
from tests.tiny import refused


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    folder = tmp_path / "examples"
    folder.mkdir()
    for name in ("b.png", "a.png"):
        write_photo(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_examples_are_the_images_of_a_folder(examples: Path) -> None:
    assert read_examples(examples) == [(examples / "a.png", ""), (examples / "b.png", "")]


def test_examples_have_questions_where_a_file_tells_them(examples: Path) -> None:
    lines = [{"image": "b.png", "question": "the b"}, {"image": "b.png", "question": "the c"}]
    (examples / "examples.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_examples(examples) == [(examples / "b.png", "the b"), (examples / "b.png", "the c")]


def test_examples_that_cannot_be_read_are_refused(examples: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"--examples .*gone is no folder"):
        read_examples(tmp_path / "gone")
    (examples / "c.png").write_text("no image")
    with pytest.raises(CommandError, match=r"--examples: .*c\.png is no image in a format"):
        read_examples(examples)
    (examples / "examples.jsonl").write_text('{"image": "a.png"}')
    with pytest.raises(CommandError, match=r"examples\.jsonl, line 1: has no question\."):
        read_examples(examples)


def test_options_that_do_not_fit_are_refused(trained_run: Path, tmp_path: Path, capsys: Any) -> None:
    def refusal(*more: str) -> str:
        return refused(["demo", "--checkpoint", str(trained_run), *more], capsys, 1)

    assert "--max-upload-mb must be above 0, got 0.0" in refusal("--max-upload-mb", "0")
    assert "--max-megapixels must be above 0, got nan" in refusal("--max-megapixels", "nan")
    assert "--max-new-tokens must be above 0, got -1" in refusal("--max-new-tokens", "-1")
    assert "--port must be in 0 … 65535, got 70000" in refusal("--port", "70000")
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    assert "cannot listen on 192.0.2.1:" in refusal("--host", "192.0.2.1", "--port", "0", "--device", "cpu")
    gone = refused(["demo", "--checkpoint", str(tmp_path / "gone")], capsys, 1)
    assert "there is no checkpoint" in gone


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_ended(
    trained_run: Path, examples: Path, tmp_path: Path, how: signal.Signals
) -> None:
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "temporary")}
    words = ["--checkpoint", str(trained_run), "--port", "0", "--device", "cpu", "--examples", str(examples)]
    command = [sys.executable, "-m", "coprs_lightning", "demo", *words]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = ""
            while not (found := re.search(r"the demo is at (http://127\.0\.0\.1:\d+/)", said)):
                line = process.stderr.readline()
                assert line, f"it ended: {said}"
                said += line
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            assert opener.open(found[1], timeout=20).status == 200
            assert list((tmp_path / "temporary").glob("coprs-demo-*"))
            process.send_signal(how)
            assert "the demo has ended" in process.communicate(timeout=30)[1]
            assert process.returncode == 0
            assert not list((tmp_path / "temporary").glob("coprs-demo-*"))
        finally:
            process.kill()
