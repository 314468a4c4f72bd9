"""A folder with a table of questions: rows become targets, targets of one image become one sample."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.convert.errors import BadItemError
from datamodules.convert.folder_options import FolderOptions, FolderPlan, split_plan
from datamodules.convert.folder_questions import COLUMNS, REQUIRED, Question, QuestionReader
from datamodules.convert.folder_table import read_table
from datamodules.convert.rows import KeyMaker, PhotoFile, RowsJob, RowTarget, convert_rows, lost_target
from datamodules.convert.rows_paths import FileFinder
from datamodules.convert.rows_splits import TRAIN, order_splits
from datamodules.convert.split import SplitPlan


@dataclass
class ImageQuestions:
    """The rows about one image in one split.

    Attributes:
        image: the photo's file.
        name: as the table has it.
        rows: number of rows.
        problems: rows that cannot be used.
        notes: see :class:`datamodules.convert.split.Converted`.
    """

    image: Path
    name: str
    rows: int = 0
    problems: list[BadItemError] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    _targets: list[Question] = field(default_factory=list)
    _known: dict[str, Question] = field(default_factory=dict)

    def add(self, question: Question) -> None:
        """Add a row: a target of its own, or more expressions of one that is there."""
        self.rows += 1
        if question.target in self._known:
            self._merge(self._known[question.target], question)
            return
        self._targets.append(question)
        if question.target:
            self._known[question.target] = question

    def _merge(self, here: Question, new: Question) -> None:
        for column, one, other in zip(("mask", "ignore"), here.raw, new.raw, strict=True):
            if one and other and one != other:
                detail = (
                    f"{new.where}: target {here.target!r} has another {column} in {here.where}. Rows of one target "
                    "share their mask; several masks of one target go into one list"
                )
                self.problems.append(BadItemError("contradicting rows", detail))
                return
        target, more = here.content, new.content
        target.expressions += more.expressions
        target.items += more.items
        target.masks = target.masks or more.masks
        target.ignore = target.ignore or more.ignore
        target.kind = target.kind or more.kind
        target.no_target = target.no_target or more.no_target
        if target.reasoning and more.reasoning and target.reasoning != more.reasoning:
            self.notes["thoughts left out, for their target has one already"] += 1
        target.reasoning = target.reasoning or more.reasoning
        here.raw = (here.raw[0] or new.raw[0], here.raw[1] or new.raw[1])

    def finish(self) -> list[RowTarget]:
        """The usable targets; those without a mask become problems."""
        free = (str(number) for number in range(2 * len(self._targets)) if str(number) not in self._known)
        usable = []
        for question in self._targets:
            target = question.content
            target.target_id = question.target or next(free)
            if target.masks or target.no_target:
                usable.append(target)
                continue
            advice = "Give one, or set no_target to true when nothing in the image is meant"
            detail = f"{target.items[0]}: no mask. {advice}"
            self.problems += lost_target(target, BadItemError("no mask", detail))
        return usable


def plan_table(options: FolderOptions, path: Path, output: Path) -> FolderPlan:
    """Read the table, find its files and divide its images.

    Raises:
        BadSourceError: an unusable table, or a split that cannot name a folder.
    """
    table = read_table(path, REQUIRED)
    reader = QuestionReader(FileFinder(options.folder, options.images), options.mask_value, options.rasteriser)
    questions: list[Question] = []
    problems = list(table.problems)
    for row in table.rows:
        try:
            questions.append(reader.read(row))
        except BadItemError as error:
            problems.append(error)
    splits = _assign(questions, options)
    images: dict[tuple[str, Path], ImageQuestions] = {}
    for question in questions:
        split = question.split or splits[question.image]
        images.setdefault((split, question.image), ImageQuestions(question.image, question.name)).add(question)
    names = order_splits(split for split, _ in images) or [options.rule.only or TRAIN]
    plans = [_plan(options, output, name, [item for (at, _), item in images.items() if at == name]) for name in names]
    plans[0].problems += problems  # where a row that cannot be read belongs is not known
    plans[0].items += len(problems)
    warnings = []
    unknown = [name for name in table.columns if name not in COLUMNS]
    if unknown:
        listing = ", ".join(repr(name) for name in unknown)
        warnings.append(f"{path.name}: columns {listing} are not used; known columns are {', '.join(COLUMNS)}.")
    shared = sum(count > 1 for count in Counter(image for _, image in images).values())
    if shared:
        warnings.append(
            f"{shared} image(s) are in several splits, so what is measured on one was seen in training. "
            f"Give all rows of an image the same split in {path.name}, or leave the column out."
        )
    found = f"a table of questions, {path.name}: {len(table.rows) + len(table.problems)} rows"
    return FolderPlan(found, plans, convert_rows, warnings)


def _assign(questions: list[Question], options: FolderOptions) -> dict[Path, str]:
    """The split of each image that has rows without one: that of its other rows, else by the rule."""
    given = {question.image: question.split for question in reversed(questions) if question.split}
    names = dict.fromkeys(question.image for question in questions if question.image not in given)
    root = options.folder.resolve()
    # by the path inside the folder, so that the choice stays when the folder moves
    by_name = {path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path): path for path in names}
    return given | {by_name[name]: split for name, split in options.rule.divide(list(by_name)).items()}


def _plan(options: FolderOptions, output: Path, split: str, images: list[ImageQuestions]) -> SplitPlan:
    keys = KeyMaker()
    jobs: list[RowsJob] = []
    rows = sum(image.rows for image in images)
    plan = split_plan(options, output, split, form="table", unit="rows", items=rows, jobs=jobs)
    for image in images:
        stem = image.name.replace("\\", "/").rpartition(".")[0]
        key = keys.make(stem or image.name)
        targets = image.finish()
        plan.problems += image.problems
        plan.notes += image.notes
        if targets:
            jobs.append(RowsJob(key, stem, image.image.name, PhotoFile(image.image), targets))
    if options.mask_value is not None:
        plan.extra["mask_value"] = options.mask_value
    return plan
