"""`coprs segment`: one image, one question, four files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coprs_lightning.cli import main
from coprs_lightning.commands import CommandError
from coprs_lightning.commands.segment import Answer, ask, read_image, run, summary
from coprs_lightning.module import CoprsModule
from coprs_lightning.prompts import parse_completion
from coprs_lightning.structures import Completions
from tests.tiny import refused

WIDTH, HEIGHT = 40, 30


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def module(trained_run: Path) -> CoprsModule:
    return CoprsModule.from_checkpoint(trained_run / "checkpoints" / "last.ckpt")


def words(checkpoint: Path, image: Path, output: Path, *more: str, question: str = "the red one") -> list[str]:
    asked = ["--checkpoint", str(checkpoint), "--image", str(image), "--question", question, "--output", str(output)]
    return ["segment", *asked, "--device", "cpu", *more]


def saying(module: CoprsModule, text: str) -> CoprsModule:
    """The module, with a policy whose next completion is ``text``: everything after that is real."""
    policy = module.model.policy
    ids = torch.tensor([policy.tokenizer(text, add_special_tokens=False)["input_ids"]])

    def generate(prompts: Any, **options: Any) -> Completions:
        return Completions(ids, torch.ones_like(ids, dtype=torch.bool), [text], torch.tensor([False]))

    policy.generate = generate
    return module


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


def test_the_answer_is_that_of_the_model(module: CoprsModule, photo: Path) -> None:
    image = read_image(photo)
    first, second = ask(module, image, "the red one"), ask(module, image, "the red one")
    assert first.completion == second.completion
    assert np.array_equal(first.mask, second.mask)
    assert first.mask.shape == first.heatmap.shape == (HEIGHT, WIDTH)


def test_longest_completion_is_the_checkpoints_or_the_users(module: CoprsModule, photo: Path) -> None:
    image = read_image(photo)
    lengths = {
        n: len(module.model.policy.tokenizer(ask(module, image, "x", n).completion)["input_ids"]) for n in (1, 3)
    }
    assert lengths == {1: 1, 3: 3}
    assert len(module.model.policy.tokenizer(ask(module, image, "x").completion)["input_ids"]) == 4


def test_a_thought_and_its_token_are_reported(module: CoprsModule, photo: Path) -> None:
    answer = ask(saying(module, "<think> it is red </think> here: <REF_POS>"), read_image(photo), "x")
    found = summary(answer)
    assert (found["thought"], found["answer"], found["well_formed"]) == ("it is red", "here:", True)
    assert (found["token_present"], found["num_tokens"], found["truncated"]) == (True, 1, False)
    y, x = np.unravel_index(answer.heatmap.argmax(), answer.heatmap.shape)
    assert found["scores"]["heatmap_peak_xy"] == [x, y]
    assert found["scores"]["heatmap_peak"] == pytest.approx(float(answer.heatmap[y, x]))


def test_no_token_gives_an_empty_mask_and_a_warning(
    trained_run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilt = CoprsModule.from_checkpoint(trained_run / "checkpoints" / "last.ckpt")
    monkeypatch.setattr(CoprsModule, "from_checkpoint", lambda path: saying(rebuilt, "<think> red </think> nothing"))
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
    trained_run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilt = CoprsModule.from_checkpoint(trained_run / "checkpoints" / "last.ckpt")
    text = "<think> red </think> <REF_POS> or <REF_POS>"
    monkeypatch.setattr(CoprsModule, "from_checkpoint", lambda path: saying(rebuilt, text))
    assert main(words(trained_run, photo, tmp_path / "o")) == 0
    assert "has 2 concentration tokens; the last one is used" in capsys.readouterr().err
    assert json.loads((tmp_path / "o" / "result.json").read_text())["num_tokens"] == 2


def test_a_cut_completion_is_said(
    trained_run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(words(trained_run, photo, tmp_path / "o", "--max-new-tokens", "1"))
    assert "warning: the completion reached --max-new-tokens and was cut" in capsys.readouterr().err


def test_box_area_and_scores() -> None:
    mask = np.zeros((6, 8), dtype=np.float32)
    mask[2:4, 3:7] = 0.75
    heatmap = np.zeros((6, 8), dtype=np.float32)
    heatmap[5, 1] = 0.5
    found = summary(Answer("t<REF_POS>", parse_completion("t<REF_POS>"), False, mask, heatmap))
    assert found["box_xyxy"] == [3, 2, 7, 4]
    assert found["area"] == {"pixels": 8, "share": 8 / 48}
    assert found["scores"] == {"mask_probability": 0.75, "heatmap_peak": 0.5, "heatmap_peak_xy": [1, 5]}


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16", "I", "F"])
def test_images_of_every_mode_are_read(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.tif" if mode in ("CMYK", "F", "I") else "image.png")
    if mode == "I;16":
        Image.fromarray(np.full((4, 6), 65535 // 2, dtype=np.uint16)).save(path)
    elif mode == "I":
        Image.fromarray(np.full((4, 6), 65535 // 2, dtype=np.int32)).save(path)
    elif mode == "F":
        Image.fromarray(np.full((4, 6), 127.0, dtype=np.float32)).save(path)
    else:
        grey = Image.new("RGB", (6, 4), (127, 127, 127))
        grey.convert(mode, dither=Image.Dither.NONE, palette=Image.Palette.ADAPTIVE).save(path)
    image = read_image(path)
    assert image.shape == (4, 6, 3)
    assert image.dtype == np.uint8
    expected = 0 if mode == "1" else 127
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_a_dark_16_bit_image_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 200, dtype=np.uint16)).save(tmp_path / "dark.png")
    assert read_image(tmp_path / "dark.png").max() == 1


def test_transparency_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 255).all()
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([255, 0, 0])
    palette.save(tmp_path / "b.png", transparency=0)
    assert (read_image(tmp_path / "b.png") == 255).all()


def test_images_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 4), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise to see it upright
    image.save(tmp_path / "a.png", exif=exif)
    turned = read_image(tmp_path / "a.png")
    assert turned.shape == (6, 4, 3)
    assert turned[0, 3].tolist() == [255, 255, 255]


def test_broken_images_are_refused(tmp_path: Path, photo: Path, trained_run: Path, capsys: Any) -> None:
    with pytest.raises(CommandError, match=r"there is no image .*nothing\.png"):
        read_image(tmp_path / "nothing.png")
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(CommandError, match=r"text\.png is no image in a format that Pillow knows"):
        read_image(text)
    cut = tmp_path / "cut.png"
    cut.write_bytes(photo.read_bytes()[:900])
    with pytest.raises(CommandError, match=r"cut\.png cannot be read \(broken or cut short\)"):
        read_image(cut)
    Image.new("RGB", (402, 2)).save(tmp_path / "strip.png")
    with pytest.raises(CommandError, match=r"402 × 2 pixels: more than 200 times as long as wide"):
        read_image(tmp_path / "strip.png")
    message = refused(words(trained_run, cut, tmp_path / "o"), capsys, status=1)
    assert "coprs: error: image" in message
    assert "Traceback" not in message
    assert not (tmp_path / "o").exists()


def test_image_bombs_are_refused(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(CommandError, match="exceeds limit"):
        read_image(photo)


def test_mistakes_are_refused(
    trained_run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    assert "--question is empty" in refused(words(trained_run, photo, out, question="  "), capsys, 1)
    assert "must be at least 1, got 0" in refused(words(trained_run, photo, out, "--max-new-tokens", "0"), capsys, 1)
    assert "there is no checkpoint" in refused(words(tmp_path / "nothing", photo, out), capsys, 1)
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
        image=str(photo),
        question="x",
        output=str(tmp_path / "o"),
        max_new_tokens=2,
        device="auto",
    )
    assert run(args) == 0
