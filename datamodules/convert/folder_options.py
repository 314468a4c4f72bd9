"""What a user says about a folder of their own, and what becomes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.polygons import Rasteriser
from datamodules.convert.rows_splits import SplitRule
from datamodules.convert.rows_texts import is_text
from datamodules.convert.split import Converted, SplitPlan


@dataclass(frozen=True)
class FolderOptions:
    """How to read a folder.

    Attributes:
        folder: the folder.
        name: of the dataset; splits are called ``<name>-<split>``.
        images: further folders that may be read, searched first.
        table: the file of questions or annotations, where there are several.
        question: template of questions where annotations have labels only.
        per_instance: a target for each labelled object, instead of one for all objects of a label.
        mask_value: pixel value of masks that means the target, ``None`` for all but zero.
        rasteriser: rule for polygons.
        rule: where images go whose table does not say.
    """

    folder: Path
    name: str = ""
    images: Sequence[Path] = ()
    table: Path | None = None
    question: str | None = None
    per_instance: bool = False
    mask_value: int | None = None
    rasteriser: Rasteriser = "pycocotools"
    rule: SplitRule = field(default_factory=SplitRule)

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.name or self.folder.resolve().name


@dataclass
class FolderPlan:
    """What will be converted.

    Attributes:
        found: a sentence about the form and the files.
        plans: the splits.
        convert: makes a :class:`Converted` of each of their jobs.
        warnings: what the user should look at.
    """

    found: str
    plans: list[SplitPlan]
    convert: Callable[[Any], Converted]
    warnings: list[str] = field(default_factory=list)


def split_plan(
    options: FolderOptions, output: Path, split: str, *, form: str, unit: str, items: int, jobs: Sequence[Any]
) -> SplitPlan:
    """The plan of one split, with the options that shaped it in its index."""
    extra: dict[str, Any] = {"converter": "folder", "form": form, "rasteriser": options.rasteriser}
    if not options.rule.only:
        extra |= {"val_fraction": options.rule.val_fraction, "seed": options.rule.seed}
    source = f"a folder of images ({form}): {options.dataset}"
    return SplitPlan(output / split, f"{options.dataset}-{split}", source, unit, items, jobs, extra, [], Counter())


class QuestionTemplate:
    """A question with fields in braces, ``"Where is the {label}?"``.

    Args:
        text: the template.
        fields: the fields that it may use.

    Raises:
        BadSourceError: no text, another field, or braces that do not match.
    """

    def __init__(self, text: str, fields: Sequence[str]) -> None:
        self._text = text
        try:
            parts = list(Formatter().parse(text))
        except ValueError as error:
            raise BadSourceError(f"--question {text!r}: {error}. Write each brace that is no field twice.") from error
        allowed = ", ".join(f"{{{name}}}" for name in fields)
        for _, name, form, conversion in parts:
            if name is not None and (name not in fields or form or conversion):
                raise BadSourceError(f"--question {text!r}: {{{name}}} is no field of it; fields are {allowed}.")
        if not text.strip():
            raise BadSourceError(f"--question is empty. Give a text with {allowed} in it.")

    def __repr__(self) -> str:
        return f"QuestionTemplate({self._text!r})"

    def render(self, values: Mapping[str, str]) -> str:
        """The question, or an empty text when all of its fields are empty and it has no other words."""
        return self._text.format_map(values).strip()

    def fill(self, values: Mapping[str, str], where: str) -> str:
        """The question about one label.

        Raises:
            BadItemError: no text is left, for a field is empty or holds characters that are none.
        """
        text = self.render(values)
        if not text or not is_text(text):
            raise BadItemError(
                "no question", f"{where}: --question {self._text!r} gives {text!r} for it, which is no text"
            )
        return text
