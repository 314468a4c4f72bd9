"""Sharded checkpoints: folders with the pieces of every process, in the format of torch.distributed.checkpoint.

Torch reads them with pickle, which can run code. Here only what such a checkpoint is made of is ever built from one, so
a sharded checkpoint is plain data like any other of ours.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from coprs_lightning.commands import CommandError

INDEX = ".metadata"
"""Which piece of which tensor lies where; torch writes it when all pieces are there."""

REST = "meta.pt"
"""Everything but tensors of model and optimizers, as Lightning calls it; written last."""

_WEIGHTS = "state_dict"
_OPTIMIZER = "optimizer_"

_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
    "collections": {"OrderedDict"},
}
"""All that an index is made of, beside types of numbers."""


class _Refused(Exception):
    """A global that no index needs."""


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = name in _CLASSES.get(module, ())
        if known or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise _Refused(f"{module}.{name}")


def is_sharded_checkpoint(path: str | Path) -> bool:
    """Whether a path is a folder with the pieces of a checkpoint, whole or not."""
    path = Path(path)
    return path.is_dir() and ((path / INDEX).is_file() or any(path.glob("*.distcp")))


def check_whole(path: Path) -> None:
    """Refuse a folder in which pieces are missing.

    Raises:
        CommandError: naming what is missing.
    """
    absent = [name for name in (INDEX, REST) if not (path / name).is_file()]
    if not absent:
        needed = {info.relative_path: info.offset + info.length for info in _longest(read_index(path))}
        absent = [name for name, size in needed.items() if not _has(path / name, size)]
    if absent:
        raise CommandError(
            f"{path} is a sharded checkpoint that is not whole: {', '.join(absent[:3])} missing or too short, as after "
            "a job that ended while it saved, or a copy that was cut off. Take another checkpoint of the run."
        )


def _longest(index: Any) -> list[Any]:
    """The last piece of every file."""
    last: dict[str, Any] = {}
    for info in index.storage_data.values():
        name = info.relative_path
        if name not in last or last[name].offset < info.offset:
            last[name] = info
    return list(last.values())


def _has(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size >= size


def read_index(path: Path) -> Any:
    """What a sharded checkpoint holds and where; nothing else is ever built from the file.

    Raises:
        CommandError: for a file that is broken or asks for anything else.
    """
    try:
        index = _IndexUnpickler(io.BytesIO((path / INDEX).read_bytes())).load()
    except _Refused as error:
        raise CommandError(
            f"{path / INDEX} asks for {error}, which no checkpoint needs: reading it could run code, so it was refused."
        ) from error
    except Exception as error:  # broken pickles raise nearly anything
        raise CommandError(f"{path / INDEX} cannot be read ({error}): the checkpoint is damaged.") from error
    for info in index.storage_data.values():
        if Path(info.relative_path).name != info.relative_path:
            raise CommandError(f"{path / INDEX} names a file outside of its folder: {info.relative_path}.")
    return index


def read_rest(path: Path) -> dict[str, Any]:
    """What a sharded checkpoint says about itself, without tensors.

    Raises:
        CommandError: for a checkpoint that is not whole, or holds more than data.
    """
    check_whole(path)
    try:
        content = torch.load(path / REST, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CommandError(
            f"{path / REST} cannot be read as part of a checkpoint (damaged, or it holds code): "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    if not isinstance(content, dict):
        raise CommandError(f"{path / REST} is no part of a coprs checkpoint. It was written by another program.")
    return content


def load_pieces(path: Path, state: dict[str, Any], *, alone: bool = False) -> None:
    """Fill tensors, divided ones too, with what a checkpoint holds under their names, however it was divided.

    Args:
        path: the folder.
        state: nested dicts of tensors and plain values; changed in place.
        alone: this process reads by itself; otherwise all processes have to.

    Raises:
        CommandError: for a checkpoint that is damaged, or holds more than data.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import StorageMeta
    from torch.distributed.checkpoint.state_dict_loader import load

    class Reader(FileSystemReader):
        """Reads the index as :func:`read_index` does."""

        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            index = read_index(path)
            index.storage_meta = index.storage_meta or StorageMeta()
            index.storage_meta.load_id = self.load_id
            return index

    class Planner(DefaultLoadPlanner):
        """Takes values that are no tensors as plain data."""

        def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
            plain = torch.load(value, map_location="cpu", weights_only=True)
            _put(self.original_state_dict, self.mappings[read_item.dest_index.fqn], plain)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # alone is what is meant
        try:
            load(state, storage_reader=Reader(path), planner=Planner(), no_dist=alone)
        except CheckpointException as error:  # no Exception: torch would have it pass by everything
            failure = str(next(iter(error.failures.values()))[0]).strip().splitlines()[0]
            raise CommandError(f"{path} cannot be loaded (damaged, or it holds code): {failure}") from error


def read_sharded(path: Path, *, optimizers: bool = False) -> dict[str, Any]:
    """A sharded checkpoint as one of a single file would be: put together in the memory of this process.

    Args:
        path: the folder.
        optimizers: their states too, which are twice the weights.

    Raises:
        CommandError: for a checkpoint that is not whole, or holds more than data.
    """
    rest, index = read_rest(path), read_index(path)
    state: dict[str, Any] = {}
    for name, found in index.state_dict_metadata.items():
        place = index.planner_data[name]
        if place[0] != _WEIGHTS and not (optimizers and str(place[0]).startswith(_OPTIMIZER)):
            continue
        size = getattr(found, "size", None)
        _put(state, place, None if size is None else torch.empty(size, dtype=found.properties.dtype))
    load_pieces(path, state, alone=True)
    content = {**rest, _WEIGHTS: state.get(_WEIGHTS, {})}
    if optimizers:
        names = sorted((key for key in state if key != _WEIGHTS), key=lambda key: int(key.removeprefix(_OPTIMIZER)))
        content["optimizer_states"] = [numbered(state[name]) for name in names]
    return content


def numbered(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state by the numbers of its parameters, as a plain optimizer has it, from one by their names."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    return {
        "state": {numbers[name]: values for name, values in state["state"].items()},
        "param_groups": [
            {**group, "params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]
        ],
    }


def named(state: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The opposite of :func:`numbered`.

    Args:
        state: by numbers.
        names: of all parameters, in the order of the optimizer's groups.
    """
    by_number = dict(enumerate(names))
    return {
        "state": {by_number[number]: values for number, values in state["state"].items()},
        "param_groups": [
            {**group, "params": [by_number[number] for number in group["params"]]} for group in state["param_groups"]
        ],
    }


def _put(root: dict[str, Any], place: tuple[Any, ...], value: Any) -> None:
    """Set a value deep inside dicts and lists, which are made where missing."""
    at: Any = root
    for key, following in zip(place, (*place[1:], None), strict=True):
        if isinstance(at, list):
            at.extend([None] * (key + 1 - len(at)))
        if following is None:
            at[key] = value
            return
        inside = at[key] if isinstance(at, list) else at.get(key)
        if inside is None:
            at[key] = inside = [] if isinstance(following, int) else {}
        at = inside
