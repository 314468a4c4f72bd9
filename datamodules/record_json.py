"""The JSON member of a shard: checks that writer and reader share, and the way back from untrusted JSON."""

from __future__ import annotations

from typing import Any

from datamodules.records import ImageRecord, Target
from datamodules.rle import MAX_PIXELS, mask_runs, mask_size

MAX_EXPRESSION = 2000
"""Characters of a question; longer ones are mistakes of a conversion, and no policy's prompt has room for them."""


def check_key(key: str) -> None:
    """Refuse a key that a tar of webdataset form cannot carry.

    Raises:
        ValueError: naming the key.
    """
    bad = [character for character in key if character in "./\\" or character.isspace() or not character.isprintable()]
    if not key or bad or key.startswith("__") or len(key.encode()) > 200:
        raise ValueError(
            f"key {key!r} cannot name a sample: keys are 1–200 bytes without dot, slash, backslash or white space and "
            "do not start with '__' (webdataset cuts keys at the first dot). Replace such characters by '_'."
        )


def check_record(record: ImageRecord, *, runs: bool = True) -> None:
    """Check everything that readers rely on.

    Args:
        record: the record.
        runs: also check the run lengths of every mask, not only its size.

    Raises:
        ValueError: naming the key and the target.
    """
    check_key(record.key)
    where = f"sample {record.key!r}"
    if record.height <= 0 or record.width <= 0 or record.height * record.width > MAX_PIXELS:
        raise ValueError(
            f"{where}: image size {record.height} × {record.width} is outside 1…{MAX_PIXELS} pixels; leave it out "
            "or make the image smaller before writing."
        )
    if not record.targets:
        raise ValueError(f"{where}: has no target, so nothing could be asked about it; leave the image out.")
    seen: set[str] = set()
    for target in record.targets:
        if not target.target_id or target.target_id in seen:
            raise ValueError(f"{where}: target id {target.target_id!r} is empty or used twice in this image.")
        seen.add(target.target_id)
        _check_target(target, record, f"{where}, target {target.target_id!r}", runs)


def _check_target(target: Target, record: ImageRecord, where: str, runs: bool) -> None:
    if not target.expressions:
        raise ValueError(f"{where}: has no expression; every target needs at least one question.")
    if any(not expression.strip() for expression in target.expressions):
        raise ValueError(f"{where}: has an empty expression in {target.expressions!r}.")
    longest = max(target.expressions, key=len)
    if len(longest) > MAX_EXPRESSION:
        raise ValueError(
            f"{where}: an expression has {len(longest)} characters, more than {MAX_EXPRESSION}: it would not "
            f"fit into a prompt ({longest[:60]!r} …). Shorten it or leave it out."
        )
    for rle in [*target.masks, *([] if target.ignore is None else [target.ignore])]:
        try:
            size = mask_size(rle)
            if runs:
                mask_runs(rle)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if size != (record.height, record.width):
            raise ValueError(
                f"{where}: mask of {size[0]} × {size[1]} pixels in an image of {record.height} × {record.width} "
                "(height × width; were the two exchanged?)."
            )


def record_from_json(key: str, content: Any) -> ImageRecord:
    """Build a record from parsed JSON that may hold anything.

    Mask runs are not read here: only the masks of the chosen example are, when they are decoded.

    Raises:
        ValueError: naming the key and the field that is missing or of a wrong type.
    """
    where = f"sample {key!r}"
    fields = _fields(content, where, {"image_id": str, "file_name": str, "height": int, "width": int, "targets": list})
    targets = []
    for number, item in enumerate(fields["targets"]):
        spot = f"{where}, target {number}"
        required = _fields(item, spot, {"target_id": str, "expressions": list, "masks": list})
        if not all(isinstance(expression, str) for expression in required["expressions"]):
            raise ValueError(f"{spot}: expressions must be a list of strings.")
        optional = {"ignore": item.get("ignore"), "reasoning": item.get("reasoning"), "kind": item.get("kind", "")}
        if not isinstance(optional["reasoning"], str | None) or not isinstance(optional["kind"], str):
            raise ValueError(f"{spot}: reasoning must be a string or null, and kind a string.")
        distractors = item.get("distractors")
        if distractors is not None and (type(distractors) is not int or distractors < 0):
            raise ValueError(f"{spot}: distractors must be a number of objects or null, got {distractors!r:.60}.")
        targets.append(Target(**required, **optional, distractors=distractors))
    record = ImageRecord(key=key, **{**fields, "targets": targets})
    check_record(record, runs=False)
    return record


def _fields(content: Any, where: str, types: dict[str, type]) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(content).__name__}.")
    for name, kind in types.items():
        if type(content.get(name)) is not kind:  # exact: True is no height
            found = type(content[name]).__name__ if name in content else "nothing"
            raise ValueError(f"{where}: field {name!r} must be {kind.__name__}, got {found}.")
    return {name: content[name] for name in types}
