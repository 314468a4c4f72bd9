"""Weights as safetensors files: one, or several with an index where they are large."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from coprs_lightning.checkpoints.weights import first_names

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LARGEST_FILE = "5GB"

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def save_weights(module: nn.Module, folder: Path, *, largest_file: str | int = LARGEST_FILE) -> None:
    """Write all weights of a module; tied ones once, under their first name.

    Args:
        module: what to write.
        folder: an existing folder.
        largest_file: size above which the weights are divided among files (``"5GB"``, or bytes).
    """
    state: dict[str, Tensor] = module.state_dict(keep_vars=True)
    first = first_names(state)
    save_tensors({name: state[name] for name in first if first[name] == name}, folder, largest_file=largest_file)


def save_tensors(tensors: Mapping[str, Tensor], folder: Path, *, largest_file: str | int = LARGEST_FILE) -> None:
    """Write tensors under their names; see :func:`save_weights`."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    detached = {name: value.detach() for name, value in tensors.items()}
    plan = split_torch_state_dict_into_shards(detached, max_shard_size=largest_file)
    for file, names in plan.filename_to_tensors.items():
        # a memory of their own, a file at a time: views and tensors that share memory cannot be written
        own = {name: detached[name].cpu().clone(memory_format=torch.contiguous_format) for name in names}
        save_file(own, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": dict(sorted(plan.tensor_to_filename.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of the safetensors files in a folder; they stay on disk until they are used.

    Raises:
        ValueError: where there are none, or a file is missing or broken. Pickles are never read.
    """
    read: dict[str, Tensor] = {}
    for file in _files(folder):
        for name, tensor in read_file(file).items():
            if name in read:
                raise ValueError(f"{folder}: {name} is in two files of {INDEX}. Write or fetch the folder anew.")
            read[name] = tensor
    return read


def read_file(file: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file.

    Raises:
        ValueError: for a broken file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is no whole safetensors file ({error}). Write or fetch it anew.") from error


def _files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            names = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{folder / INDEX} is no index of weights. Write or fetch the folder anew.") from error
        files = [folder / Path(str(name)).name for name in sorted(names)]
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise ValueError(f"{folder} lacks {', '.join(absent)}, which {INDEX} names. Fetch the whole folder.")
        return files
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ValueError(
            f"{folder} has no {WEIGHTS}, only {', '.join(pickles)}: reading such files can run code, so they are "
            "left alone. Export the model anew with `coprs export`."
        )
    raise ValueError(f"{folder} has no {WEIGHTS}: there is nothing to load. Export the model with `coprs export`.")
