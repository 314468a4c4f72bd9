"""Checkpoints on the command line: run folders, defaults of the parts, differences.

A checkpoint gives the *defaults* of ``model`` and ``data``; configs and flags stand above them. Nothing in a checkpoint
ever replaces what the user wrote.
"""

from __future__ import annotations

from typing import Any

from coprs_lightning.checkpoints.run_folder import SPEC_KEY, Found, find_checkpoint, read_header
from coprs_lightning.module import DATA_SPEC_KEY

__all__ = ["Found", "as_defaults", "differences", "drop_swapped", "find_checkpoint", "listed", "read_header", "specs"]

_SHOWN_DIFFERENCES = 8


def specs(header: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """``model`` and ``data`` of a checkpoint as specs; ``data`` is missing where its datamodule recorded none."""
    found = {"model": header[SPEC_KEY], "data": header.get(DATA_SPEC_KEY)}
    return {section: spec for section, spec in found.items() if spec is not None}


def as_defaults(found: dict[str, dict[str, Any]], link_targets: dict[str, str]) -> dict[str, Any]:
    """Specs as defaults of the command line: the model's options, the datamodule as a class; without link targets."""
    content = {"model": found["model"]["init_args"]}
    if "data" in found:
        content["data"] = found["data"]
    kept: dict[str, Any] = _without("", content, set(link_targets))
    return kept


def _without(path: str, content: Any, targets: set[str]) -> Any:
    if not isinstance(content, dict):
        return content
    inner = {key: f"{path}.{key}" if path else key for key in content}
    return {key: _without(inner[key], value, targets) for key, value in content.items() if inner[key] not in targets}


def drop_swapped(defaults: dict[str, Any], classes: dict[str, str]) -> dict[str, Any]:
    """Forget a default part where the user chose another class: nothing of it may leak into the new one.

    Args:
        defaults: nested defaults, see :func:`as_defaults`.
        classes: class paths that the user gave, by slot path.
    """

    def walk(path: str, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        if path in classes and content.get("class_path") not in (None, classes[path]):
            return {"class_path": classes[path]}
        return {key: walk(f"{path}.{key}" if path else key, value) for key, value in content.items()}

    kept: dict[str, Any] = walk("", defaults)
    return kept


def differences(old: Any, new: Any, path: str = "model") -> list[str]:
    """Options in which two specs differ, as ``path: new now, old in the checkpoint``."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = dict.fromkeys([*old, *new])
        return [line for name in names for line in differences(old.get(name), new.get(name), f"{path}.{name}")]
    return [] if old == new else [f"{path}: {new!r} now, {old!r} in the checkpoint"]


def listed(lines: list[str]) -> str:
    """Lines below a message, the first few of them."""
    shown = lines[:_SHOWN_DIFFERENCES]
    if len(lines) > len(shown):
        shown = [*shown, f"… and {len(lines) - len(shown)} more"]
    return "".join(f"\n  {line}" for line in shown)
