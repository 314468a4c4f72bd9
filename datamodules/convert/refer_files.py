"""The files of a REFER root (RefCOCO and its relatives): where they are, and their content checked."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.json_files import read_json
from datamodules.convert.restricted_pickle import load_plain_pickle

_SPLIT = re.compile(r"[A-Za-z0-9_-]{1,50}")


@dataclass(frozen=True)
class Ref:
    """One referred object.

    Attributes:
        ref_id: unique inside its file.
        ann_ids: keys of its annotations in ``instances.json``; one in REFER's datasets, any number in gRefCOCO, none
            where nothing in the image is meant.
        image_id: key of its image there.
        split: split value as the file has it.
        sentences: the cleaned sentences (``sent``) in order, empty ones left out.
        distractors: other objects of its categories in the image, once that is known.
    """

    ref_id: int
    ann_ids: list[int]
    image_id: int
    split: str
    sentences: list[str]
    distractors: int | None = None


@dataclass
class ReferFiles:
    """The content of ``refs(<split_by>).p`` and ``instances.json``.

    Attributes:
        refs: well-formed refs in the file's order.
        problems: refs that are malformed.
        image_ids: images of each split, those of malformed refs and of refs without a sentence too.
        images: ``images`` entries by id.
        annotations: ``annotations`` entries by id.
    """

    refs: list[Ref]
    problems: dict[str, list[BadItemError]] = field(default_factory=dict)
    image_ids: dict[str, set[int]] = field(default_factory=dict)
    images: dict[int, dict[str, Any]] = field(default_factory=dict)
    annotations: dict[int, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def _counts(self) -> Counter[tuple[Any, Any]]:
        objects = (entry for entry in self.annotations.values() if entry.get("iscrowd") != 1)
        return Counter((entry.get("image_id"), _category(entry)) for entry in objects)

    def distractors(self, ref: Ref) -> int | None:
        """Objects of the image, crowds left out, that share a category with the ref and are not its own.

        ``None`` for a ref without annotations, and where one of them has no category.
        """
        own = Counter(_category(self.annotations[number]) for number in ref.ann_ids)
        if not own or None in own:
            return None
        return sum(max(0, self._counts[ref.image_id, category] - number) for category, number in own.items())

    @property
    def splits(self) -> list[str]:
        """The split values that occur."""
        return sorted({ref.split for ref in self.refs} | set(self.problems))


def refs_name(dataset: str, split_by: str) -> str:
    """What a dataset's file of refs is called, without its ending."""
    return f"{'grefs' if dataset == 'grefcoco' else 'refs'}({split_by})"


def read_refer(root: Path, dataset: str, split_by: str) -> ReferFiles:
    """Read ``<root>/<dataset>/refs(<split_by>).p`` (or ``.json``) and ``<root>/<dataset>/instances.json``.

    gRefCOCO's file is called grefs.

    Raises:
        BadSourceError: a file or folder is missing (with what is there instead), unreadable, or no REFER data.
    """
    folder = root / dataset
    if not folder.is_dir():
        found = sorted(path.parent.name for path in root.glob("*/instances.json")) if root.is_dir() else []
        raise BadSourceError(
            f"--input {root} has no folder {dataset}. Expected the REFER layout {root}/{dataset}/instances.json; "
            f"datasets there: {', '.join(found) or 'none'}."
        )
    refs_path = _refs_path(folder, refs_name(dataset, split_by))
    instances = folder / "instances.json"
    if not instances.is_file():
        raise BadSourceError(
            f"{instances} is missing. REFER keeps the masks of {refs_path.name} in it; it comes with the same download."
        )
    files = read_refs(refs_path)
    try:
        content = read_json(instances)
    except (OSError, ValueError) as error:
        raise BadSourceError(str(error)) from error
    files.images = _by_id(content, "images", instances)
    files.annotations = _by_id(content, "annotations", instances)
    return files


def _refs_path(folder: Path, name: str) -> Path:
    for suffix in (".p", ".json"):
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    prefix = name.partition("(")[0]
    found = sorted({path.stem[len(prefix) + 1 : -1] for path in folder.glob(f"{prefix}(*).*")})
    listing = f"--split-by values there: {', '.join(found) or 'none'}."
    if prefix == "grefs":
        listing = f"Expected gRefCOCO's own file there, found {', '.join(sorted(map(_name, folder.iterdir()))[:5])}."
    raise BadSourceError(f"{folder} has no {name}.p or {name}.json. {listing}")


def _name(path: Path) -> str:
    return path.name


def read_refs(path: Path) -> ReferFiles:
    """Read a refs file alone.

    Raises:
        BadSourceError: unreadable, or no list of refs.
    """
    try:
        content = read_json(path) if path.suffix == ".json" else load_plain_pickle(path)
    except (OSError, ValueError) as error:
        raise BadSourceError(str(error)) from error
    if not isinstance(content, list) or not content:
        found = "an empty list" if isinstance(content, list) else type(content).__name__
        raise BadSourceError(f"{path}: expected a list of refs, got {found}.")
    files = ReferFiles([])
    for place, item in enumerate(content):
        if not isinstance(item, dict) or not isinstance(item.get("split"), str):
            raise BadSourceError(f"{path}: entry {place} is no ref: expected a dict with a string 'split'.")
        if not _SPLIT.fullmatch(item["split"]):  # it becomes the name of a folder
            raise BadSourceError(f"{path}: entry {place} has the split {item['split']!r}, expected letters and digits.")
        if type(item.get("image_id")) is int:
            files.image_ids.setdefault(item["split"], set()).add(item["image_id"])
        try:
            files.refs.append(_parse_ref(item, place, several=path.name.startswith("grefs")))
        except BadItemError as error:
            files.problems.setdefault(item["split"], []).append(error)
    return files


def _parse_ref(item: Any, place: int, *, several: bool) -> Ref:
    where = f"ref {item.get('ref_id', f'at place {place}')!s}"
    for name in ("ref_id", "image_id"):
        if type(item.get(name)) is not int:
            raise BadItemError("malformed ref", f"{where}: {name} must be an integer, got {item.get(name)!r}")
    if isinstance(item.get("ann_id"), list) and not several:
        raise BadItemError(
            "malformed ref",
            f"{where}: ann_id must be an integer, got {item['ann_id']!r}; lists of annotations belong to gRefCOCO, "
            "whose file is called grefs(unc)",
        )
    ann_ids = _annotations(item, where)
    if not isinstance(item.get("sentences"), list):
        raise BadItemError("malformed ref", f"{where}: 'sentences' must be a list")
    sentences = []
    for number, sentence in enumerate(item["sentences"]):
        text = sentence.get("sent") if isinstance(sentence, dict) else None
        if not isinstance(text, str):
            raise BadItemError("malformed ref", f"{where}: sentence {number} has no string 'sent'")
        sentences.append(text.strip())
    return Ref(item["ref_id"], ann_ids, item["image_id"], item["split"], [text for text in sentences if text])


def _category(annotation: dict[str, Any]) -> int | None:
    found = annotation.get("category_id")
    return found if type(found) is int else None


def _annotations(item: dict[str, Any], where: str) -> list[int]:
    """The annotations of a ref: a number (REFER) or a list (gRefCOCO), where -1 stands for none."""
    found = item.get("ann_id")
    listed: list[Any] = found if isinstance(found, list) else [found]
    if not listed or not all(type(number) is int for number in listed):
        raise BadItemError("malformed ref", f"{where}: ann_id must be an integer or a list of them, got {found!r}")
    none = [number for number in listed if number == -1]
    if none and (len(listed) > 1 or item.get("no_target") is False):
        raise BadItemError("malformed ref", f"{where}: ann_id {found!r} means both none and something")
    if item.get("no_target") is True and not none:
        raise BadItemError("malformed ref", f"{where}: no_target is true, but ann_id is {found!r}")
    return [] if none else list(dict.fromkeys(listed))


def _by_id(content: Any, name: str, path: Path) -> dict[int, dict[str, Any]]:
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise BadSourceError(f"{path}: expected COCO's form, an object with a list {name!r}.")
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or type(entry.get("id")) is not int:
            raise BadSourceError(f"{path}: {name}[{place}] is no object with an integer 'id'.")
    return {entry["id"]: entry for entry in entries}
