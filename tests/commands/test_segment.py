"""`coprs segment`: one image, one question, four files."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coprs_lightning.checkpoints import load_model, loading
from coprs_lightning.cli import main
from coprs_lightning.commands._segment_files import summary, write_pictures
from coprs_lightning.commands.segment import run
from coprs_lightning.inference import Answer, ObjectAnswer
from coprs_lightning.structures import Completions
from tests.tiny import refused

WIDTH, HEIGHT = 40, 30


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def words(checkpoint: Path, image: Path, output: Path, *more: str, question: str = "the red one") -> list[str]:
    asked = ["--checkpoint", str(checkpoint), "--image", str(image), "--question", question, "--output", str(output)]
    return ["segment", *asked, "--device", "cpu", *more]


@pytest.fixture
def say(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the command's model write a given text: everything after that is real."""

    def prepare(text: str) -> None:
        opened = loading.open_model(trained_run)
        policy = opened.model.policy
        ids = torch.tensor([policy.tokenizer(text, add_special_tokens=False)["input_ids"]])

        def generate(prompts: Any, **options: Any) -> Completions:
            return Completions(ids, torch.ones_like(ids, dtype=torch.bool), [text], torch.tensor([False]))

        monkeypatch.setattr(policy, "generate", generate)
        monkeypatch.setattr(loading, "open_model", lambda source, device: opened)

    return prepare


def test_four_files_of_the_images_size(
    trained_run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "folder"
    assert main(words(trained_run, photo, output)) == 0
    assert {file.name for file in output.iterdir()} == {"mask.png", "heatmap.png", "overlay.png", "result.json"}
    mask = np.asarray(Image.open(output / "mask.png"))
    assert mask.shape == (HEIGHT, WIDTH)
    assert set(np.unique(mask)) <= {0, 255}
    assert Image.open(output / "overlay.png").size == (WIDTH, HEIGHT)
    assert Image.open(output / "heatmap.png").size == (WIDTH, HEIGHT)
    result = json.loads((output / "result.json").read_text())
    assert result["question"] == "the red one"
    assert result["image_size"] == {"width": WIDTH, "height": HEIGHT}
    assert result["area"]["pixels"] == int((mask == 255).sum())
    assert result["area"]["share"] == pytest.approx((mask == 255).mean())
    assert Path(result["checkpoint"]).parent == trained_run / "checkpoints"
    shown = capsys.readouterr()
    assert (result["thought"] or result["completion"]) in shown.out
    assert "using the best checkpoint of" in shown.err


def test_it_is_the_answer_of_the_model(trained_run: Path, photo: Path, tmp_path: Path) -> None:
    answer = load_model(trained_run, "cpu").segment(photo, "the red one")
    assert main(words(trained_run, photo, tmp_path / "o")) == 0
    assert json.loads((tmp_path / "o" / "result.json").read_text())["completion"] == answer.completion
    assert np.array_equal(np.asarray(Image.open(tmp_path / "o" / "mask.png")) == 255, answer.mask)


def test_a_thought_and_its_token_are_reported(
    trained_run: Path, photo: Path, tmp_path: Path, say: Callable[[str], None]
) -> None:
    say("<think> it is red </think> here: <REF_POS>")
    main(words(trained_run, photo, tmp_path / "o"))
    found = json.loads((tmp_path / "o" / "result.json").read_text())
    assert (found["thought"], found["answer"], found["well_formed"]) == ("it is red", "here:", True)
    assert (found["token_present"], found["num_tokens"], found["truncated"]) == (True, 1, False)
    assert [one["box_xyxy"] for one in found["objects"]] == [found["box_xyxy"]]
    assert found["objects"][0]["score"] == found["score"]


def test_no_token_gives_an_empty_mask_and_a_warning(
    trained_run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], say: Callable[[str], None]
) -> None:
    say("<think> red </think> nothing")
    assert main(words(trained_run, photo, tmp_path / "o")) == 0
    result = json.loads((tmp_path / "o" / "result.json").read_text())
    assert result["token_present"] is False
    assert result["well_formed"] is False
    assert result["box_xyxy"] is None
    assert result["area"]["pixels"] == 0
    assert result["scores"] == {"mask_probability": None, "heatmap_peak": pytest.approx(0), "heatmap_peak_xy": None}
    assert not np.asarray(Image.open(tmp_path / "o" / "mask.png")).any()
    shown = capsys.readouterr()
    assert "warning: the completion has no concentration token" in shown.err
    assert shown.out == "red\n"


def test_of_two_tokens_the_last_is_used_and_said(
    trained_run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], say: Callable[[str], None]
) -> None:
    say("<think> red </think> <REF_POS> or <REF_POS>")
    assert main(words(trained_run, photo, tmp_path / "o")) == 0
    assert "has 2 concentration tokens; the last one is used" in capsys.readouterr().err
    assert json.loads((tmp_path / "o" / "result.json").read_text())["num_tokens"] == 2


def test_a_cut_completion_is_said(
    trained_run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(words(trained_run, photo, tmp_path / "o", "--max-new-tokens", "1"))
    assert "warning: the completion reached --max-new-tokens and was cut" in capsys.readouterr().err


def answer_of(mask: np.ndarray, heatmap: np.ndarray, objects: list[ObjectAnswer]) -> Answer:
    return Answer("q", "t<REF_POS>", "", "t", False, True, mask > 0.5, mask, heatmap, 0.5, objects, 1, 1, True)


def test_box_area_and_scores() -> None:
    mask = np.zeros((6, 8), dtype=np.float32)
    mask[2:4, 3:7] = 0.75
    heatmap = np.zeros((6, 8), dtype=np.float32)
    heatmap[5, 1] = 0.5
    one = ObjectAnswer(mask > 0.5, mask, heatmap, 0.25)
    found = summary(answer_of(mask, heatmap, [one]))
    assert (found["well_formed"], found["num_tokens"]) == (True, 1)
    assert found["box_xyxy"] == [3, 2, 7, 4]
    assert found["area"] == {"pixels": 8, "share": 8 / 48}
    assert found["scores"] == {"mask_probability": 0.75, "heatmap_peak": 0.5, "heatmap_peak_xy": [1, 5]}
    assert found["objects"] == [{"score": 0.25, "box_xyxy": [3, 2, 7, 4], "area": {"pixels": 8, "share": 8 / 48}}]
    assert found["nothing_fits"] is False
    empty = summary(answer_of(np.zeros_like(mask), heatmap, []))
    assert (empty["nothing_fits"], empty["box_xyxy"], empty["objects"]) == (True, None, [])


def test_several_objects_have_a_file_each(tmp_path: Path) -> None:
    masks = [np.zeros((6, 8), dtype=np.float32) for _ in range(3)]
    for number, mask in enumerate(masks):
        mask[number] = 0.9
    objects = [ObjectAnswer(mask > 0.5, mask, mask, 0.9) for mask in masks]
    image = np.zeros((6, 8, 3), dtype=np.uint8)
    union = np.maximum.reduce(masks)
    names = write_pictures(image, answer_of(union, union, objects), tmp_path, "a_")
    assert names["object-2"] == "a_object-2.png"
    for number, mask in enumerate(masks, 1):
        written = np.asarray(Image.open(tmp_path / f"a_object-{number}.png")) == 255
        assert np.array_equal(written, mask > 0.5)
    write_pictures(image, answer_of(union, union, objects[:2]), tmp_path, "a_")
    assert sorted(file.name for file in tmp_path.glob("a_object*")) == ["a_object-1.png", "a_object-2.png"]
    write_pictures(image, answer_of(union, union, objects[:1]), tmp_path, "a_")
    assert not list(tmp_path.glob("a_object*"))


def test_mistakes_are_refused(
    trained_run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    assert "--question is empty" in refused(words(trained_run, photo, out, question="  "), capsys, 1)
    assert "must be at least 1, got 0" in refused(words(trained_run, photo, out, "--max-new-tokens", "0"), capsys, 1)
    assert "there is no checkpoint" in refused(words(tmp_path / "nothing", photo, out), capsys, 1)
    broken = tmp_path / "cut.png"
    broken.write_bytes(photo.read_bytes()[:900])
    message = refused(words(trained_run, broken, out), capsys, 1)
    assert "coprs: error: image" in message
    assert "Traceback" not in message
    assert "is a file. Name a folder." in refused(words(trained_run, photo, photo), capsys, 1)
    (tmp_path / "x.ckpt").write_text("x")
    assert "is no checkpoint, or a truncated one" in refused(words(tmp_path / "x.ckpt", photo, out), capsys, 1)
    message = refused(words(trained_run, photo, out, question="red " * 2500), capsys, 1)
    assert "more than max_prompt_tokens 1300 (question of 10000 characters" in message
    assert not out.exists()


def test_an_unknown_device_is_refused(
    trained_run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(trained_run, photo, tmp_path / "o")
    command[command.index("cpu")] = "gpu"
    assert "--device gpu: " in refused(command, capsys, 1)


def test_special_tokens_in_a_question_are_words(trained_run: Path, photo: Path, tmp_path: Path) -> None:
    question = "<|image_pad|> <REF_POS> <|im_end|> red"
    with warnings.catch_warnings():
        assert main(words(trained_run, photo, tmp_path / "o", question=question)) == 0
    assert json.loads((tmp_path / "o" / "result.json").read_text())["question"] == question


def test_results_are_overwritten_in_place(trained_run: Path, photo: Path, tmp_path: Path) -> None:
    for question in ("first", "second"):
        main(words(trained_run, photo, tmp_path / "o", question=question))
    assert json.loads((tmp_path / "o" / "result.json").read_text())["question"] == "second"


def test_run_is_the_module_contract(trained_run: Path, photo: Path, tmp_path: Path) -> None:
    import argparse

    args = argparse.Namespace(
        checkpoint=str(trained_run),
        image=[str(photo)],
        input=None,
        batch_size=8,
        layout="flat",
        question="x",
        output=str(tmp_path / "o"),
        max_new_tokens=2,
        device="auto",
    )
    assert run(args) == 0
