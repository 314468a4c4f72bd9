"""`coprs explain`: from a run and from an exported folder, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coprs_lightning.checkpoints import loading
from coprs_lightning.cli import main
from coprs_lightning.commands import CommandError
from coprs_lightning.commands.explain import parse_box, read_target
from coprs_lightning.decoders import UpsampleDecoder
from tests.tiny import refused

WIDTH, HEIGHT = 40, 30


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    pixels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    pixels[5:20, 10:30] = 1  # a mask of 0 and 1
    Image.fromarray(pixels).save(tmp_path / "target.png")
    return tmp_path / "target.png"


def words(checkpoint: Path, image: Path, output: Path, *more: str, question: str = "the red one") -> list[str]:
    asked = ["--checkpoint", str(checkpoint), "--image", str(image), "--question", question, "--output", str(output)]
    return ["explain", *asked, "--device", "cpu", *more]


def numbers(output: Path) -> dict:
    return json.loads((output / "explanation.json").read_text())


@pytest.fixture
def speaking(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, whose model writes a thought and the token; everything after that is real."""
    opened = loading.open_model(trained_run)
    completions = opened.model.policy.encode_completions(["it is red"])
    monkeypatch.setattr(opened.model.policy, "generate", lambda prompts, **options: completions)
    monkeypatch.setattr(loading, "open_model", lambda source, device: opened)
    return trained_run


def test_a_run_and_its_exported_folder_give_the_same(trained_run: Path, photo: Path, tmp_path: Path) -> None:
    assert main(words(trained_run, photo, tmp_path / "run", "--thought", "it is red")) == 0
    main(["export", "--checkpoint", str(trained_run), "--output", str(tmp_path / "exported")])
    assert main(words(tmp_path / "exported", photo, tmp_path / "again", "--thought", "it is red")) == 0
    first, second = numbers(tmp_path / "run"), numbers(tmp_path / "again")
    assert first.pop("checkpoint") != second.pop("checkpoint")
    assert first == second
    assert [one["name"] for one in first["counterfactuals"]] == ["with another thought"]
    assert first["counterfactuals"][0]["thought"] == "it is red"


def test_everything_at_once(
    speaking: Path, photo: Path, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "o"
    options = ["--no-thought", "--box", "5,5,20,25", "--target", str(target), "--leave-out", "2"]
    assert main(words(speaking, photo, output, *options)) == 0
    files = {"explanation.png", "explanation.html", "explanation.json", "heatmap.png", "heatmap.npy"}
    assert {file.name for file in output.iterdir()} == files
    found = numbers(output)
    names = ["without the thought", "with a box as the heatmap", "with the target as the heatmap"]
    assert [one["name"] for one in found["counterfactuals"]] == names
    assert sum(token["left_out"] is not None for token in found["tokens"]) == 2
    shown = capsys.readouterr()
    assert "it is red" in shown.out
    assert all(f"- {sentence}" in shown.out for sentence in found["findings"])
    assert "using the best checkpoint" in shown.err
    assert "wrote explanation.png" in shown.err


@pytest.mark.parametrize("name", ["heatmap.png", "heatmap.npy"])
def test_its_own_heatmap_can_be_edited_and_given_back(speaking: Path, photo: Path, tmp_path: Path, name: str) -> None:
    main(words(speaking, photo, tmp_path / "o"))
    assert main(words(speaking, photo, tmp_path / "p", "--heatmap", str(tmp_path / "o" / name))) == 0
    names = [one["name"] for one in numbers(tmp_path / "p")["counterfactuals"]]
    assert names == ["without the thought", "with the given heatmap"]


def test_mistakes_are_refused(
    trained_run: Path, photo: Path, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"

    def said(*more: str, **options: str) -> str:
        return refused(words(trained_run, photo, out, *more, **options), capsys, 1)

    assert "--question is empty" in said(question=" ")
    assert "--thought gives another thought and --no-thought takes it away" in said("--thought", "a", "--no-thought")
    assert "--thought is empty. To take the thought away give --no-thought" in said("--thought", " ")
    both = said("--box", "1,2,3,4", "--heatmap", "x.png")
    assert "--box and --heatmap both replace the heatmap" in both
    assert "--max-new-tokens must be at least 1, got 0" in said("--max-new-tokens", "0")
    assert "--leave-out must be at least 0, got -1" in said("--leave-out", "-1")
    assert "--box '1,2,x' is no box. Give four numbers" in said("--box", "1,2,x")
    message = said("--box", "1,2,41,30")
    assert "--box 1,2,41,30 reaches outside of the image, which is 40 pixels wide and 30 high" in message
    assert "Traceback" not in message
    assert "there is no image --target" in said("--target", str(tmp_path / "nothing.png"))
    assert "--heatmap " in said("--heatmap", str(tmp_path / "nothing.png"))
    turned = tmp_path / "turned.png"
    Image.fromarray(np.zeros((WIDTH, HEIGHT), dtype=np.uint8)).save(turned)
    assert "has the shape (40, 30), the image has (30, 40)" in said("--heatmap", str(turned))
    assert "--target is bool of the shape (40, 30)" in said("--target", str(turned))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(turned)
    assert "is coloured, and colours are no probabilities" in said("--heatmap", str(turned))
    assert "is a file. Name a folder." in refused(words(trained_run, photo, photo), capsys, 1)
    assert "there is no checkpoint" in refused(words(tmp_path / "nothing", photo, out), capsys, 1)
    assert not out.exists()


def test_a_model_without_a_decoder_stage_is_refused(
    trained_run: Path,
    photo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = loading.open_model(trained_run)
    opened.model.decoder = UpsampleDecoder(in_channels=opened.model.decoder.in_channels)
    monkeypatch.setattr(loading, "open_model", lambda source, device: opened)
    message = refused(words(trained_run, photo, tmp_path / "o", "--box", "1,2,30,20"), capsys, 1)
    assert "--box replaces the heatmap, but this model has no decoder stage: UpsampleDecoder" in message


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,3,nan", "", "1,2,3,inf"])
def test_what_is_no_box(text: str) -> None:
    with pytest.raises(CommandError, match="is no box"):
        parse_box(text)


def test_a_box() -> None:
    assert parse_box("1, 2.5,30,4") == [1, 2.5, 30, 4]


def test_targets_of_any_brightness(target: Path, tmp_path: Path) -> None:
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[5:20, 10:30] = True
    assert np.array_equal(read_target(target), expected)
    Image.fromarray(np.where(expected, 250, 9).astype(np.uint8)).save(tmp_path / "grey.png")
    assert np.array_equal(read_target(tmp_path / "grey.png"), expected)
    Image.fromarray(np.zeros((3, 3), dtype=np.uint8)).save(tmp_path / "none.png")
    assert not read_target(tmp_path / "none.png").any()
