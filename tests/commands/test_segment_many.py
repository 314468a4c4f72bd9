"""`coprs segment` with many images: patterns, folders and JSON lines, and what cannot be answered."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coprs_lightning.checkpoints import load_model
from coprs_lightning.cli import main
from coprs_lightning.commands._segment_tasks import Names, Skip, Task, image_tasks, is_single, json_tasks
from tests.tiny import refused

SIZES = {"a.png": (30, 40), "b.JPG": (24, 20), "c.webp": (16, 50)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three images, a text, a hidden image, and one more in a folder inside it."""
    folder = tmp_path / "photos"
    (folder / "inside").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in {**SIZES, "inside/a.png": (20, 20), ".hidden.png": (9, 9)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def words(checkpoint: Path, output: Path, *more: Any) -> list[str]:
    return ["segment", "--checkpoint", str(checkpoint), "--output", str(output), "--device", "cpu", *map(str, more)]


def results(folder: Path, name: str = "results.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def write_lines(file: Path, *items: Any) -> Path:
    file.write_text("\n".join(item if isinstance(item, str) else json.dumps(item) for item in items), encoding="utf-8")
    return file


def test_a_folder_gives_flat_files_and_one_list(
    trained_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    assert main(words(trained_run, out, "--image", photos, "--question", "the red one", "--batch-size", 2)) == 0
    found = results(out)
    assert [item["id"] for item in found] == ["a", "b", "c"]
    expected = {f"{name}_{kind}.png" for name in "abc" for kind in ("mask", "heatmap", "overlay")}
    assert {file.name for file in out.iterdir()} == {*expected, "results.jsonl"}
    for item, (name, (height, width)) in zip(found, SIZES.items(), strict=True):
        assert item["image"] == str(photos / name)
        assert item["question"] == "the red one"
        assert item["image_size"] == {"width": width, "height": height}
        mask = np.asarray(Image.open(out / item["files"]["mask"]))
        assert mask.shape == (height, width)
        assert item["area"]["pixels"] == int((mask == 255).sum())
    assert "answered 3 questions" in capsys.readouterr().err


def test_answers_do_not_depend_on_the_batch(trained_run: Path, photos: Path, tmp_path: Path) -> None:
    model = load_model(trained_run, "cpu")
    for batch_size in (1, 3):
        out = tmp_path / str(batch_size)
        main(words(trained_run, out, "--image", photos, "--question", "the red one", "--batch-size", batch_size))
        for item in results(out):
            alone = model.segment(item["image"], "the red one")
            assert item["completion"] == alone.completion
            assert item["scores"]["heatmap_peak"] == pytest.approx(float(alone.heatmap.max()), abs=1e-4)
            assert np.array_equal(np.asarray(Image.open(out / item["files"]["mask"])) == 255, alone.mask)


def test_paths_patterns_and_folders_together_name_every_file_once(photos: Path, monkeypatch: Any) -> None:
    given = [str(photos / "c.webp"), str(photos / "**" / "*.png"), str(photos), str(photos / "gone.png")]
    tasks = list(image_tasks(given, "q", Names()))
    assert [task.image.relative_to(photos).as_posix() for task in tasks] == [
        "c.webp",
        "a.png",
        "inside/a.png",
        "b.JPG",
        "gone.png",
    ]
    assert [task.name for task in tasks] == ["c", "a", "a-2", "b", "gone"]
    assert {task.question for task in tasks} == {"q"}


def test_one_image_by_its_path_is_single(photos: Path) -> None:
    assert is_single([str(photos / "a.png")])
    assert is_single([str(photos / "gone.png")])
    assert not is_single([str(photos)])
    assert not is_single([str(photos / "*.png")])
    assert not is_single([str(photos / "a.png"), str(photos / "b.JPG")])
    (photos / "[x]*.png").write_bytes((photos / "a.png").read_bytes())
    assert is_single([str(photos / "[x]*.png")])
    assert len(list(image_tasks([str(photos / "[x]*.png")], "q", Names()))) == 1


def test_json_lines_with_a_folder_for_each(trained_run: Path, photos: Path, tmp_path: Path) -> None:
    lines = [
        {"image": "a.png", "question": "the red one", "id": "first/../x"},
        {"image": "a.png", "question": "日本語 the blue one", "id": 7},
        {"image": str(photos / "b.JPG"), "question": "the green one"},
    ]
    file = write_lines(photos / "asked.jsonl", *lines, "", "  ")
    out = tmp_path / "o"
    assert main(words(trained_run, out, "--input", file, "--layout", "folders")) == 0
    found = results(out)
    assert [item["id"] for item in found] == ["first/../x", "7", "b"]
    assert [item["question"] for item in found] == [line["question"] for line in lines]
    assert [item["files"]["mask"] for item in found] == ["first_.._x/mask.png", "7/mask.png", "b/mask.png"]
    assert all((out / file).is_file() for item in found for file in item["files"].values())
    assert not (out / "skipped.jsonl").exists()


def test_what_cannot_be_answered_is_named_and_counted(
    trained_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:900])
    file = write_lines(
        photos / "asked.jsonl",
        {"image": "cut.png", "question": "x"},
        {"image": "a.png", "question": "x"},
        "{",
        {"image": "gone.png", "question": "x"},
        {"image": "a.png", "question": "red " * 2500},
        {"image": "c.webp", "question": "x", "id": "c"},
        {"image": "a.png", "question": "again", "id": "c"},
    )
    out = tmp_path / "o"
    refused(words(trained_run, out, "--input", file, "--batch-size", "4"), capsys, status=3)
    assert [item["id"] for item in results(out)] == ["a", "c"]
    skipped = {item["where"].removeprefix(f"{file}, "): item["reason"] for item in results(out, "skipped.jsonl")}
    assert list(skipped) == ["line 3", "line 7", "line 1", "line 4", "line 5"]
    assert "cannot be read (broken or cut short)" in skipped["line 1"]
    assert "is no JSON" in skipped["line 3"]
    assert "there is no image" in skipped["line 4"]
    assert "more than max_prompt_tokens 1300" in skipped["line 5"]
    assert skipped["line 7"] == "id 'c' is that of line 6 already"


def test_skips_are_told_on_stderr(
    trained_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--image", photos / "a.png", photos / "notes.txt", "--question", "x"]
    message = refused(words(trained_run, tmp_path / "o", *given), capsys, status=3)
    assert f"skipped {photos / 'notes.txt'}: {photos / 'notes.txt'} is no image in a format" in message
    assert f"skipped 1, see {tmp_path / 'o' / 'skipped.jsonl'}" in message
    main(words(trained_run, tmp_path / "o", "--image", photos / "a.png", photos / "c.webp", "--question", "x"))
    assert not (tmp_path / "o" / "skipped.jsonl").exists()
    assert len(results(tmp_path / "o")) == 2


def test_nothing_answered_is_an_error(
    trained_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--image", photos / "gone.png", photos / "notes.txt", "--question", "x"]
    message = refused(words(trained_run, tmp_path / "o", *given), capsys, 1)
    assert "none of 2 questions could be answered" in message
    assert len(results(tmp_path / "o", "skipped.jsonl")) == 2
    file = write_lines(tmp_path / "asked.jsonl", "[]")
    message = refused(words(trained_run, tmp_path / "p", "--input", file), capsys, 1)
    assert "holds no line that can be asked" in message
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "holds [1], not an object with image and question"),
        ('{"question": "x"}', "has no image"),
        ('{"image": "a.png"}', "has no question"),
        ('{"image": "a.png", "question": " "}', "question is no text: ' '"),
        ('{"image": 3, "question": "x"}', "image is no text: 3"),
        ('{"image": "a\\u0000", "question": "x"}', "image is no text: 'a\\x00'"),
        ('{"image": "a.png", "question": "x", "id": true}', "id is neither text nor a whole number: True"),
        ("[" * 100_000, "is no JSON"),
        (b"\xff", "is not UTF-8 (byte 0)"),
    ],
)
def test_malformed_lines_are_skips(line: str | bytes, reason: str, tmp_path: Path) -> None:
    good = b'{"image": "a.png", "question": "x"}\r\n'
    raw = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + good + raw + b"\n" + good)
    first, wrong, last = json_tasks(tmp_path / "x.jsonl", Names())
    assert isinstance(first, Task)
    assert isinstance(last, Task)
    assert (first.image, first.name, last.name) == (tmp_path / "a.png", "a", "a-2")
    assert isinstance(wrong, Skip)
    assert wrong.where == f"{tmp_path / 'x.jsonl'}, line 2"
    assert wrong.reason.startswith(reason)


def test_names_are_safe_and_different() -> None:
    names = Names(("results.jsonl",))
    assert names.make("../../etc/passwd") == "_.._etc_passwd"
    assert names.make("A") == "A"
    assert names.make("a") == "a-2"
    assert names.make("a-2") == "a-2-2"
    assert names.make("results.jsonl") == "results.jsonl-2"
    assert names.make("..") == "image"
    assert names.make("日本") == "日本"
    long = names.make("語" * 200)
    assert len(f"{long}_heatmap.png".encode()) < 256
    assert os.sep not in names.make("a/b\\c")


def test_options_that_do_not_fit_are_refused(
    trained_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*more: Any, output: Path = tmp_path / "o") -> str:
        return refused(words(trained_run, output, *more), capsys, 1)

    assert "Give --image and --question, or --input FILE.jsonl" in refusal()
    assert "--question is missing" in refusal("--image", photos)
    assert "Leave --image and --question out" in refusal("--input", "x.jsonl", "--question", "x")
    assert "--batch-size must be at least 1, got 0" in refusal(
        "--image", photos, "--question", "x", "--batch-size", "0"
    )
    assert "x.jsonl cannot be read: No such file" in refusal("--input", tmp_path / "x.jsonl")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "the folder holds no images" in refusal("--image", empty, "--question", "x")
    assert "no file fits the pattern" in refusal("--image", photos / "*.bmp", "--question", "x")
    assert "masks would lie among them" in refusal("--image", photos, "--question", "x", output=photos)
    assert not (tmp_path / "o").exists()
