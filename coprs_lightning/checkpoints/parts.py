"""Building a model from the specs of its parts, without loading anything of theirs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coprs_lightning.aggregators import ConcentrationAggregator
from coprs_lightning.backbones import ImageBackbone
from coprs_lightning.checkpoints.weights import load_strictly
from coprs_lightning.component import Component
from coprs_lightning.decoders import MaskDecoder
from coprs_lightning.heatmap_heads import HeatmapHead
from coprs_lightning.importing import import_class
from coprs_lightning.policies import Policy
from coprs_lightning.spec import build
from coprs_lightning.weightless import without_weights

SLOTS: dict[str, type[Component]] = {
    "policy": Policy,
    "backbone": ImageBackbone,
    "aggregator": ConcentrationAggregator,
    "heatmap_head": HeatmapHead,
    "decoder": MaskDecoder,
}
"""The parts of a model and what each of them is."""

MODEL_CLASS = "coprs_lightning.model.CoprsModel"


def portable(model: Any, generation: Mapping[str, Any]) -> dict[str, Any]:
    """What rebuilds a model without the sources of its parts, as plain data for a checkpoint.

    Args:
        model: a :class:`~coprs_lightning.model.CoprsModel`.
        generation: decoding options that go with it.
    """
    parts: dict[str, Component] = model.components()
    return {
        "parts": {slot: part.portable_spec(None) for slot, part in parts.items()},
        "generation": dict(generation),
        "assets": {slot: part.assets() for slot, part in parts.items()},
    }


def merged(model: Any) -> Any:
    """The same model with the policy's adapters in its weights, none of them quantised; or the model itself.

    Args:
        model: a :class:`~coprs_lightning.model.CoprsModel`; left as it is.
    """
    policy = model.policy
    if policy.adapters is None and not policy.quantized:
        return model
    plain = policy.merged_spec()
    with written_assets({"policy": policy.assets()}) as folder, without_weights():
        without = build(in_folder(plain, "policy", folder))
    load_strictly(without, policy.merged_state_dict(), source="the policy with its adapters")
    return build_model({**model.components(), "policy": without}, {"max_new_tokens": model.max_new_tokens})


@contextmanager
def written_assets(assets: Mapping[str, Mapping[str, str]]) -> Iterator[Path]:
    """The assets of a checkpoint as files, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="coprs-assets-") as name:
        folder = Path(name)
        for slot, files in assets.items():
            for file, text in files.items():
                path = folder / slot / file
                if not path.resolve().is_relative_to((folder / slot).resolve()):
                    raise ValueError(f"the checkpoint holds an asset {file!r} of {slot} that lies outside its folder.")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        yield folder


def build_parts(specs: Mapping[str, Any], folder: Path | None, where: str) -> dict[str, Component]:
    """The parts of a model by slot.

    Args:
        specs: a spec for every slot.
        folder: where the assets are; paths that begin with a slot's name are meant relative to it.
        where: what the specs were read from, for messages.

    Raises:
        ValueError: for a missing slot, or a class that does not belong into it.
    """
    parts = {}
    for slot, kind in SLOTS.items():
        spec = specs.get(slot)
        if not isinstance(spec, dict) or not isinstance(spec.get("class_path"), str):
            raise ValueError(f"{where} describes no {slot}: it needs class_path and init_args there.")
        cls = import_class(spec["class_path"])
        if not issubclass(cls, kind):
            raise ValueError(f"{where}: {slot} is to be a {spec['class_path']}, which is no {kind.__name__}.")
        parts[slot] = build(in_folder(spec, slot, folder))
    return parts


def in_folder(spec: Mapping[str, Any], slot: str, folder: Path | None) -> dict[str, Any]:
    """A part's spec with the paths that begin with its slot's name as paths in a folder."""
    arguments = {name: _resolved(value, slot, folder) for name, value in (spec.get("init_args") or {}).items()}
    return {"class_path": spec["class_path"], "init_args": arguments}


def _resolved(value: Any, slot: str, folder: Path | None) -> Any:
    if folder is None or not isinstance(value, str) or Path(value).parts[:1] != (slot,):
        return value
    path = folder / value
    return str(path) if path.exists() and path.resolve().is_relative_to(folder.resolve()) else value


def build_model(parts: Mapping[str, Component], generation: Mapping[str, Any]) -> Any:
    """A :class:`~coprs_lightning.model.CoprsModel` of the parts, in eval mode."""
    model: Any = import_class(MODEL_CLASS)(**parts)
    if "max_new_tokens" in generation:
        model.max_new_tokens = int(generation["max_new_tokens"])
    return model.eval()
