"""Reading the files that the paper's released code, and SAM's, keep weights in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coprs_lightning.checkpoints.authors_keys import LEFT_OVER, PREFIXES, from_transformers, listed
from coprs_lightning.commands import CommandError

MODULES = "refseg_modules.pt"
LANGUAGE_MODEL = "llm_hf"

_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")


def is_authors_folder(folder: Path) -> bool:
    """Whether a folder holds a model in their layout."""
    return (folder / MODULES).is_file() and (folder / LANGUAGE_MODEL).is_dir()


def read_modules(source: Path) -> dict[str, Tensor]:
    """Their segmentation modules: every tensor by its full name.

    A flat dict of tensors, one dict a module, and names with the prefixes of torch's wrappers are understood.

    Raises:
        CommandError: where the folder lacks a part, or the file holds anything but named tensors.
    """
    absent = [name for name in (MODULES, LANGUAGE_MODEL) if not (source / name).exists()]
    if absent:
        raise CommandError(
            f"--source {source} lacks {' and '.join(absent)}: the released code's checkpoint has {MODULES} beside the "
            f"transformers folder {LANGUAGE_MODEL}."
        )
    flat = _flat(read_pickle(source / MODULES))
    foreign = [name for name in flat if not name.startswith(PREFIXES)]
    if foreign:
        raise CommandError(
            f"{source / MODULES} holds weights of no module that is known ({', '.join(PREFIXES)}), so nothing was "
            f"converted:{listed(foreign)}"
        )
    return flat


def read_pickle(file: Path) -> dict[str, Any]:
    """Content of a torch file as plain data and tensors.

    Raises:
        CommandError: for a file that is broken, or that holds code.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CommandError(
            f"{file} cannot be read as weights (broken, of an old torch, or it holds code): "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    if not isinstance(content, dict):
        raise CommandError(f"{file} holds a {type(content).__name__}, not named weights.")
    return content


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        for wrapper in _WRAPPERS:
            name = name.replace(wrapper, "")
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, Mapping):
            found |= _flat(value, f"{name}.")
        else:
            raise CommandError(f"{MODULES} holds {name}, a {type(value).__name__}: only tensors are expected in it.")
    return found


def sam_left_over(sam: str) -> dict[str, Tensor]:
    """The weights of a SAM checkpoint that our decoder has no place for, by their names in ``segment_anything``.

    Args:
        sam: ``.pth`` of the ``segment_anything`` package, or folder or hub id of a transformers ``SamModel``.

    Raises:
        CommandError: where it lacks some.
    """
    if Path(sam).is_file():
        named = read_pickle(Path(sam))
    else:
        from transformers import SamModel

        loaded: Any = SamModel
        named = {from_transformers(name): value for name, value in loaded.from_pretrained(sam).state_dict().items()}
    absent = LEFT_OVER - set(named)
    if absent:
        raise CommandError(f"--sam {sam} is no whole SAM checkpoint. It lacks:{listed(absent)}")
    return {name: named[name] for name in sorted(LEFT_OVER)}
