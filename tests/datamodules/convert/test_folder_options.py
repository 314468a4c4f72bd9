from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.folder_options import FolderOptions, QuestionTemplate


def test_templates() -> None:
    template = QuestionTemplate("Where is the {label}{{s}}?", ("label", "flags"))
    assert template.fill({"label": "cat {flags}", "flags": ""}, "x") == "Where is the cat {flags}{s}?"
    assert QuestionTemplate("{flags}", ("flags",)).render({"flags": " "}) == ""
    assert repr(template) == repr(QuestionTemplate("Where is the {label}{{s}}?", ("label",)))  # stands in fingerprints


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name}", r"--question '{name}': {name} is no field of it; fields are {label}, {flags}"),
        ("{label.__class__}", "{label.__class__} is no field"),
        ("{label!r}", "{label} is no field"),
        ("{label:>100000000}", "{label} is no field"),
        ("{}", "{} is no field"),
        ("{label", "--question '{label': .* Write each brace that is no field twice"),
        (" ", r"--question is empty. Give a text with {label}, {flags} in it"),
    ],
)
def test_templates_that_cannot_be_filled(text: str, message: str) -> None:
    with pytest.raises(BadSourceError, match=message):
        QuestionTemplate(text, ("label", "flags"))


def test_an_empty_question() -> None:
    for value in ("", "\0", "\ud800"):
        with pytest.raises(
            BadItemError, match=r"no question: a.json shape 1: --question '{flags}' gives .* for it, which is no"
        ):
            QuestionTemplate("{flags}", ("flags",)).fill({"flags": value}, "a.json shape 1")


def test_name_of_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert FolderOptions(Path()).dataset == tmp_path.name
    assert FolderOptions(Path(), name="cats").dataset == "cats"
