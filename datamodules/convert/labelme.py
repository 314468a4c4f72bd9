"""LabelMe: a JSON file of labelled shapes for each image; the questions are made from the labels."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.convert.errors import BadItemError
from datamodules.convert.folder_options import FolderOptions, FolderPlan, QuestionTemplate, split_plan
from datamodules.convert.json_files import read_json
from datamodules.convert.labelme_shapes import WITHOUT_AREA, ShapesMask
from datamodules.convert.polygons import Rasteriser
from datamodules.convert.rows import KeyMaker, PhotoBytes, PhotoFile, PhotoSource, RowsJob, RowTarget, convert_rows
from datamodules.convert.rows_masks import short
from datamodules.convert.rows_paths import IMAGE_SUFFIXES, FileFinder
from datamodules.convert.rows_splits import order_splits
from datamodules.convert.split import Converted

FIELDS = ("label", "description", "flags")
QUESTIONS = ("{description}", "Where is the {label}?")
"""Without ``--question``: a shape's description where it has one."""
IGNORED, BACKGROUND = "__ignore__", "_background_"
"""Labels with a meaning of their own in LabelMe."""
_BAD = "bad annotation"


@dataclass(frozen=True)
class LabelMeJob:
    """One file to convert.

    Attributes:
        path: the JSON file.
        key: name of the sample.
        image_id: the file's path inside the folder, without its ending.
        finder: where images are.
        templates: question of a shape; the first that gives a text is taken.
        per_instance: a target for each object instead of one for all with the same question.
        rasteriser: rule for polygons and rectangles.
    """

    path: Path
    key: str
    image_id: str
    finder: FileFinder
    templates: tuple[QuestionTemplate, ...]
    per_instance: bool
    rasteriser: Rasteriser


def plan_labelme(options: FolderOptions, paths: list[Path], output: Path) -> FolderPlan:
    """Divide the files of a folder; they are read when they are converted.

    Raises:
        BadSourceError: a template of questions with other fields than :data:`FIELDS`.
    """
    finder = FileFinder(options.folder, options.images, inside=("images",))
    questions = QUESTIONS if options.question is None else (options.question,)
    templates = tuple(QuestionTemplate(question, FIELDS) for question in questions)
    names = {path.relative_to(options.folder).with_suffix("").as_posix(): path for path in paths}
    splits = options.rule.divide(list(names))
    plans = []
    for split in order_splits(splits.values()):
        keys = KeyMaker()
        jobs = [
            LabelMeJob(path, keys.make(name), name, finder, templates, options.per_instance, options.rasteriser)
            for name, path in names.items()
            if splits[name] == split
        ]
        plans.append(split_plan(options, output, split, form="labelme", unit="files", items=len(jobs), jobs=jobs))
        plans[-1].extra |= {"question": list(questions), "per_instance": options.per_instance}
    stems = {path.stem for path in paths}
    bare = [path for path in _images(options) if path.stem not in stems]
    warnings = []
    if bare:
        warnings.append(f"{len(bare)} image(s) have no JSON file and are left out, {bare[0].name} for one.")
    return FolderPlan(f"{len(paths)} LabelMe files", plans, convert_labelme, warnings)


def _images(options: FolderOptions) -> list[Path]:
    return sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def convert_labelme(job: LabelMeJob) -> Converted:
    """Read one file, group its shapes into targets and paint them; one problem a file that cannot be used."""
    where = f"{job.image_id}.json"
    try:
        content = read_labelme(job.path, where)
        shapes = [_check_shape(shape, f"{where} shape {place}") for place, shape in enumerate(content["shapes"])]
        photo, file_name = _find_photo(job, content, where)
        targets = _group(job, [shape for shape in shapes if shape["label"] not in (IGNORED, BACKGROUND)], where)
    except BadItemError as error:
        return Converted(problems=[error])
    notes = Counter(
        {
            "shapes without area (points, lines), left out": sum(not _has_area(shape) for shape in shapes),
            f"shapes labelled {BACKGROUND}, left out": sum(shape["label"] == BACKGROUND for shape in shapes),
            "images taken from their JSON file": int(isinstance(photo, PhotoBytes)),
        }
    )
    if not targets:
        notes["images without a labelled shape, left out"] += 1
        return Converted(notes=+notes)
    ignored = [shape for shape in shapes if shape["label"] == IGNORED and _has_area(shape)]
    for target in targets:
        target.ignore = ShapesMask(ignored, where, job.rasteriser) if ignored else None
    rows = RowsJob(job.key, job.image_id, file_name, photo, targets, _size(content, where))
    result = convert_rows(rows)
    result.notes += +notes
    if result.problems:  # a file that misses some of its shapes would teach that they are not there
        return Converted(problems=result.problems[:1], notes=+notes)
    return result


def read_labelme(path: Path, where: str) -> dict[str, Any]:
    """The content of a LabelMe file.

    Raises:
        BadItemError: unreadable, or of another form.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise BadItemError("broken JSON", str(error)) from error
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise BadItemError(_BAD, f"{where}: expected LabelMe's form, an object with a list 'shapes'")
    return content


def _check_shape(shape: Any, where: str) -> dict[str, Any]:
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"].strip():
        raise BadItemError(_BAD, f"{where}: expected an object with a text 'label', got {short(shape)}")
    kind = shape.get("shape_type")
    if kind is not None and not isinstance(kind, str):
        raise BadItemError(_BAD, f"{where}: shape_type must be a text, got {short(kind)}")
    if not isinstance(shape.get("group_id"), int | str | None):
        raise BadItemError(_BAD, f"{where}: group_id must be a number, got {short(shape['group_id'])}")
    return shape | {"where": where}


def _has_area(shape: dict[str, Any]) -> bool:
    return shape.get("shape_type") not in WITHOUT_AREA


def _find_photo(job: LabelMeJob, content: dict[str, Any], where: str) -> tuple[PhotoSource, str]:
    """The image that the file names, else the one beside it with the same stem, else the one inside it."""
    name = content.get("imagePath")
    beside = job.path.parent
    if isinstance(name, str) and name:
        base = name.replace("\\", "/").rpartition("/")[2]
    else:
        name = base = ""
    errors: list[BadItemError] = []
    for spelling in filter(None, [name, *(job.path.stem + suffix for suffix in IMAGE_SUFFIXES)]):
        try:
            path = job.finder.find(spelling, what="imagePath", where=where, beside=beside, by_name=base)
        except BadItemError as error:
            errors.append(error)
            continue
        return PhotoFile(path), path.name
    data = content.get("imageData")
    if isinstance(data, str) and data:
        try:
            return PhotoBytes(base64.b64decode(data, validate=True), f"{where}, imageData"), base or job.path.stem
        except binascii.Error as error:
            raise BadItemError("broken image", f"{where}: imageData is no base64: {error}") from error
    raise errors[0]


def _size(content: dict[str, Any], where: str) -> tuple[int, int] | None:
    height, width = content.get("imageHeight"), content.get("imageWidth")
    return (height, width) if type(height) is int and type(width) is int else None


def _group(job: LabelMeJob, shapes: list[dict[str, Any]], where: str) -> list[RowTarget]:
    """Shapes of one label and group are one instance; instances with one question are one target, or several."""
    instances: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for place, shape in enumerate(shapes):
        if _has_area(shape):
            group = shape.get("group_id")
            key = (shape["label"], f"alone {place}" if group is None else f"group {group}")
            instances.setdefault(key, []).append(shape)
    targets: dict[str, RowTarget] = {}
    for number, members in enumerate(instances.values()):
        question = _question(job.templates, members[0])
        name = str(number) if job.per_instance else question
        target = targets.setdefault(name, RowTarget(str(len(targets)), [question], [], [where]))
        target.masks.append(ShapesMask(members, members[0]["where"], job.rasteriser))
    return list(targets.values())


def _question(templates: tuple[QuestionTemplate, ...], shape: dict[str, Any]) -> str:
    description = shape.get("description")
    flags = shape.get("flags")
    values = {
        "label": shape["label"],
        "description": description.strip() if isinstance(description, str) else "",
        "flags": ", ".join(name for name, value in flags.items() if value) if isinstance(flags, dict) else "",
    }
    for template in templates[:-1]:
        if text := template.render(values):
            return text
    return templates[-1].fill(values, shape["where"])
