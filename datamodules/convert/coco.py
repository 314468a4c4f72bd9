"""COCO instances: the objects of a category in an image are one target, or each object is."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.folder_options import FolderOptions, FolderPlan, QuestionTemplate, split_plan
from datamodules.convert.json_files import read_json
from datamodules.convert.rows import KeyMaker, PhotoFile, RowsJob, RowTarget, convert_rows, lost_target
from datamodules.convert.rows_masks import BAD, coco_source, short
from datamodules.convert.rows_paths import FileFinder
from datamodules.convert.rows_splits import order_splits
from datamodules.convert.split import SplitPlan

FIELDS = ("category", "supercategory")
QUESTION = "{category}"
_BAD = "bad annotation"


@dataclass(frozen=True)
class CocoFile:
    """A file of COCO's form, its lists checked to hold objects with ids.

    Attributes:
        name: of the file.
        images: by id, in order.
        annotations: of each image, in order.
        categories: by id.
        problems: annotations of images that are not listed.
    """

    name: str
    images: dict[Any, dict[str, Any]]
    annotations: dict[Any, list[dict[str, Any]]]
    categories: dict[Any, dict[str, Any]]
    problems: list[BadItemError]


def plan_coco(options: FolderOptions, path: Path, output: Path) -> FolderPlan:
    """Read the file, make the questions and divide the images.

    Raises:
        BadSourceError: an unusable file, or a template of questions with other fields than :data:`FIELDS`.
    """
    template = QuestionTemplate(options.question or QUESTION, FIELDS)
    source = _read(path)
    finder = FileFinder(options.folder, options.images, inside=("images",))
    asked = {key: image for key, image in source.images.items() if source.annotations.get(key)}
    splits = options.rule.divide([str(key) for key in asked])
    plans = []
    for split in order_splits(splits.values()):
        chosen = [key for key in asked if splits[str(key)] == split]
        items = sum(len(source.annotations[key]) for key in chosen)
        jobs: list[RowsJob] = []
        plan = split_plan(options, output, split, form="coco", unit="annotations", items=items, jobs=jobs)
        plan.extra |= {"question": options.question or QUESTION, "per_instance": options.per_instance}
        maker = _JobMaker(source, finder, template, options, plan, KeyMaker())
        jobs += [job for key in chosen if (job := maker.make(key)) is not None]
        plan.notes = +plan.notes
        plans.append(plan)
    if not plans:
        raise BadSourceError(f"{path}: none of its {len(source.images)} images has an annotation, so nothing is asked.")
    plans[0].problems += source.problems
    plans[0].items += len(source.problems)
    bare = len(source.images) - len(asked)
    if bare:
        plans[0].notes["images without an annotation, left out"] = bare
    count = sum(len(annotations) for annotations in source.annotations.values())
    found = f"COCO annotations, {path.name}: {len(source.images)} images, {count} annotations"
    return FolderPlan(found, plans, convert_rows)


def _read(path: Path) -> CocoFile:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise BadSourceError(str(error)) from error
    lists = {name: _entries(content, name, path) for name in ("images", "annotations", "categories")}
    images = {entry["id"]: entry for entry in lists["images"]}
    annotations: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    problems = []
    for entry in lists["annotations"]:
        image = entry.get("image_id")
        if isinstance(image, int | str) and image in images:
            annotations[image].append(entry)
        else:
            detail = f"{path.name} annotation {entry['id']}: image_id {short(image)} is none of its images"
            problems.append(BadItemError(_BAD, detail))
    categories = {entry["id"]: entry for entry in lists["categories"]}
    return CocoFile(path.name, images, dict(annotations), categories, problems)


def _entries(content: Any, name: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise BadSourceError(f"{path}: expected COCO's form, an object with a list {name!r}.")
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or type(entry.get("id")) not in (int, str):
            raise BadSourceError(f"{path}: {name}[{place}] is no object with an 'id' (a number or a text).")
    return entries


@dataclass(frozen=True)
class _JobMaker:
    """Makes the jobs of one split; problems and notes go into its plan."""

    source: CocoFile
    finder: FileFinder
    template: QuestionTemplate
    options: FolderOptions
    plan: SplitPlan
    keys: KeyMaker

    def make(self, key: Any) -> RowsJob | None:
        """The job of one image, ``None`` when nothing of it can be used."""
        image, annotations = self.source.images[key], self.source.annotations[key]
        where = f"{self.source.name} image {key}"
        try:
            file_name = image.get("file_name")
            if not isinstance(file_name, str):
                raise BadItemError(_BAD, f"{where}: file_name must be a text, got {short(file_name)}")
            base = file_name.replace("\\", "/").rpartition("/")[2]
            path = self.finder.find(file_name, what="file_name", where=where, by_name=base)
        except BadItemError as error:
            everything = RowTarget("", [], [], [self._item(entry) for entry in annotations])
            self.plan.problems += lost_target(everything, error)
            return None
        targets = self._targets(annotations)
        height, width = image.get("height"), image.get("width")
        size = (height, width) if type(height) is int and type(width) is int else None
        if not targets:
            return None
        return RowsJob(self.keys.make(Path(base).stem), str(key), base, PhotoFile(path), targets, size)

    def _item(self, entry: dict[str, Any]) -> str:
        return f"{self.source.name} annotation {entry['id']}"

    def _targets(self, annotations: list[dict[str, Any]]) -> list[RowTarget]:
        targets: dict[str, RowTarget] = {}
        for entry in annotations:
            crowd = bool(entry.get("iscrowd"))
            if crowd and self.options.per_instance:
                self.plan.notes["crowds, left out where each object is a target"] += 1
                continue
            try:
                question = self._question(entry)
                mask = coco_source(entry.get("segmentation"), self._item(entry), self.options.rasteriser)
            except (BadItemError, ValueError) as error:
                problem = error if isinstance(error, BadItemError) else BadItemError(BAD, str(error))
                self.plan.problems.append(problem)
                continue
            self.plan.notes["crowds, each one instance of its target"] += int(crowd)
            name = str(entry["id"]) if self.options.per_instance else str(entry["category_id"])
            if self.options.per_instance and name in targets:
                self.plan.problems.append(BadItemError("id used twice", self._item(entry)))
                continue
            target = targets.setdefault(name, RowTarget(name, [question], [], []))
            target.items.append(self._item(entry))
            target.masks.append(mask)
        return list(targets.values())

    def _question(self, entry: dict[str, Any]) -> str:
        key = entry.get("category_id")
        category = self.source.categories.get(key) if isinstance(key, int | str) else None
        if category is None or not isinstance(category.get("name"), str):
            raise BadItemError(_BAD, f"{self._item(entry)}: category_id {short(key)} is no category with a name")
        values = {"category": category["name"], "supercategory": str(category.get("supercategory") or "")}
        return self.template.fill(values, self._item(entry))
