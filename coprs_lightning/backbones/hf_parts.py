"""Finding, loading and asking vision models of transformers."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from coprs_lightning.backbones.base import Preprocessing
from coprs_lightning.weightless import only_shapes

logger = logging.getLogger(__name__)

_SHOWN = 3
_TOWERS = {r"^vision_encoder\.": ""}
"""Where SAM 2 holds its vision tower's weights; transformers finds other models' towers by itself."""


@dataclass(frozen=True)
class Probed:
    """What a model gives for frames of one size.

    Attributes:
        channels: C of its features.
        stride: frame pixels per feature cell.
        unused: names of the parameters that the features do not depend on.
    """

    channels: int
    stride: int
    unused: frozenset[str]


def read_config(model: str, level: int) -> Any:
    """Configuration of a model's vision tower, set to give one feature grid.

    Raises:
        ValueError: for a model that cannot be found, or a level that it does not have.
    """
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"HFBackbone.model: {model} is no folder of a transformers model, and the hub gives none of that name: "
            f"{_first_line(error)}. Check the path, or the id and your connection."
        ) from error
    config = getattr(config, "vision_config", None) or config
    if not hasattr(config, "set_output_features_output_indices"):
        return config
    try:
        config.set_output_features_output_indices(out_indices=[level], out_features=None)
    except (IndexError, ValueError) as error:
        raise ValueError(
            f"HFBackbone.level: {model} has no feature grid {level}; it has {len(config.stage_names)} "
            f"({', '.join(config.stage_names)}), counted from 0, or from -1 backwards."
        ) from error
    return config


def model_class(config: Any) -> Any:
    """The class of transformers that gives feature grids for a configuration, or tokens.

    Raises:
        ValueError: where there is none.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING

    for mapping in (MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING):
        if type(config) in mapping:
            cls: Any = mapping[type(config)]
            if cls.main_input_name == "pixel_values":
                return cls
    raise ValueError(
        f"HFBackbone.model: transformers has no vision model for a {type(config).__name__}, so there are no features. "
        "Name a vision model, such as facebook/dinov3-vitb16-pretrain-lvd1689m."
    )


def _options(cls: Any) -> dict[str, Any]:
    # pooled outputs are not used, and many checkpoints have no weights for them
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(cls.__init__).parameters else {}


def load_encoder(model: str, config: Any, random_weights: bool) -> Any:
    """The model, with all of its weights loaded or all of them random.

    Raises:
        ValueError: naming weights that are missing, of another shape, or have no place in the layers that there are.
    """
    from transformers.utils import logging as transformers_logging

    cls = model_class(config)
    if random_weights or only_shapes():
        return cls(config, **_options(cls))
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it would report every tower and head that is left out on purpose
    try:
        encoder, info = cls.from_pretrained(
            model,
            config=config,
            dtype=torch.float32,
            key_mapping=_TOWERS if config.model_type == "sam2_vision_model" else None,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **_options(cls),
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    own = {name.split(".")[0] for name in encoder.state_dict()}
    further = {str(key) for key in info["unexpected_keys"]}
    problems = [f"missing: {key}" for key in sorted(info["missing_keys"])]
    problems += [f"of another shape: {key}" for key in sorted(str(key) for key in info["mismatched_keys"])]
    problems += [f"left over: {key}" for key in sorted(further) if key.split(".")[0] in own]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(
            f"HFBackbone.model: the weights of {model} are not those of the {cls.__name__} that its config.json "
            f"describes, so features would be partly random ({'; '.join(problems[:_SHOWN])}{more}). Fetch the model "
            "again, or set random_weights: true to train from scratch."
        )
    if further:
        logger.info("%s: %d weights of other towers and heads are left out, e.g. %s", model, len(further), min(further))
    return encoder


def feature_map(encoder: Any, pixels: Tensor, level: int) -> Tensor:
    """(B, C, h, w) features of normalised pixels."""
    interpolate = "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters
    output = encoder(pixel_values=pixels, **({"interpolate_pos_encoding": True} if interpolate else {}))
    if getattr(output, "feature_maps", None):  # the configuration asks for one
        return _tensor(output.feature_maps[0])
    if getattr(output, "fpn_hidden_states", None):
        return _tensor(output.fpn_hidden_states[level])
    features = _tensor(output.last_hidden_state)
    if features.ndim == 4:
        return features
    patch = _patch_size(encoder.config)
    side = pixels.shape[-1] // patch if patch else int(features.shape[1] ** 0.5)
    # class and register tokens come first
    return features[:, features.shape[1] - side * side :].transpose(1, 2).unflatten(-1, (side, side))


def _patch_size(config: Any) -> int | None:
    patch = getattr(config, "patch_size", None)
    return patch if isinstance(patch, int) else None


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"the model gives a {type(value).__name__} where a tensor is expected.")
    return value


def probe(config: Any, image_size: int, level: int) -> Probed:
    """Run the model without memory or computation, for the sizes that it really gives.

    Raises:
        ValueError: for a model that gives no square grid for such frames.
    """
    cls = model_class(config)
    with torch.device("meta"), torch.enable_grad():
        encoder = cls(config, **_options(cls)).eval().requires_grad_(True)
        try:
            features = feature_map(encoder, torch.empty(1, 3, image_size, image_size), level)
        except Exception as error:  # whatever the model raises for a size or level that it does not take
            raise ValueError(
                f"HFBackbone: {cls.__name__} gives no feature grid {level} for frames of {image_size} × {image_size} "
                f"pixels: {_first_line(error)}. Set image_size to a size that it was made for, or another level."
            ) from error
        features.sum().backward()
    channels, height, width = (int(size) for size in features.shape[1:])
    patch = _patch_size(config) or 1
    steps = image_size // (patch * height) if height else 0
    # a patch that is cut away can leave a grid that divides the frame and yet does not cover it: 136 pixels, 8 patches
    # of 16; other strides than a patch, doubled some times, are that
    if height != width or steps * patch * height != image_size or steps & (steps - 1):
        raise ValueError(
            f"HFBackbone.image_size {image_size} gives {cls.__name__} a feature grid of {height} × {width}, which "
            "leaves pixels out: cells would not line up with the masks. Use a multiple of its patch size or stride."
        )
    unused = frozenset(name for name, parameter in encoder.named_parameters() if parameter.grad is None)
    return Probed(channels, image_size // height, unused)


def declared(
    model: str,
    *,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
    image_size: int | None,
) -> Preprocessing:
    """What the model's image processor records, where an option does not say otherwise.

    Raises:
        ValueError: where neither says anything.
    """
    options = {"mean": mean, "std": std, "image_size": image_size}
    found = _recorded(model) if None in options.values() else {}
    values: dict[str, Any] = {name: found.get(name) if value is None else value for name, value in options.items()}
    absent = [name for name, value in values.items() if value is None]
    if absent:
        raise ValueError(
            f"HFBackbone.model: {model} has no image processor that tells its {' and '.join(absent)} "
            "(preprocessor_config.json), so frames could not be made as the weights were trained. Copy that file from "
            f"the model's source, or set {' and '.join(absent)}."
        )
    red_green_blue = {name: tuple(float(value) for value in values[name]) for name in ("mean", "std")}
    return Preprocessing(**red_green_blue, image_size=int(values["image_size"]))  # type: ignore[arg-type]


def _recorded(model: str) -> dict[str, Any]:
    """Mean, std and image size of a model's image processor, as far as it has them."""
    from transformers import AutoImageProcessor

    try:
        processor: Any = AutoImageProcessor.from_pretrained(model)
    except (OSError, ValueError):
        return {}
    if not getattr(processor, "do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    else:
        # statistics are of pixels as the processor rescales them; ours are of pixels in [0, 1]
        rescaled = getattr(processor, "do_rescale", True)
        unit = 255 * float(processor.rescale_factor) if rescaled else 255.0
        mean, std = (
            [float(value) / unit for value in values] for values in (processor.image_mean, processor.image_std)
        )
    cropped = getattr(processor, "do_center_crop", None) and processor.crop_size
    size = {name: value for name, value in dict(cropped or processor.size or {}).items() if value}
    sides = {int(value) for value in size.values()}
    return {"mean": mean, "std": std, "image_size": sides.pop() if len(sides) == 1 else None}


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
