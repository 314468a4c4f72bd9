"""Loading transformers models and processors: from the hub, from a folder, or from a configuration shipped here."""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coprs_lightning.policies.quantized import loading_options
from coprs_lightning.weightless import only_shapes

SHIPPED = Path(__file__).parent / "shipped"


def resolve_model(model: str, random_weights: bool) -> str:
    """A folder as it is, else a folder shipped with the package, else a hub id.

    Raises:
        ValueError: for a shipped model, which has no weights, where weights are to be loaded.
    """
    if Path(model).is_dir() or not (SHIPPED / model).is_dir():
        return model
    if not random_weights:
        raise ValueError(
            f"model {model!r} is shipped as a configuration without weights: there is nothing to load. Set "
            "model.policy.init_args.random_weights: true, or name a checkpoint."
        )
    return str(SHIPPED / model)


def load_processor(source: str, min_pixels: int | None, max_pixels: int | None) -> Any:
    """The processor of a checkpoint, its limits on the pixels of an image replaced where given.

    Raises:
        ValueError: when the processor has no such limits, or the least is above the most.
    """
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(source)
    if min_pixels is None and max_pixels is None:
        return processor
    images = processor.image_processor
    if "min_pixels" not in images.valid_kwargs.__annotations__:
        raise ValueError(
            f"min_pixels {min_pixels} and max_pixels {max_pixels} would change nothing: {type(images).__name__} "
            f"resizes images by a rule of its own (size {dict(images.size)}). Leave both out."
        )
    size = dict(images.size)
    least = size["shortest_edge"] if min_pixels is None else min_pixels
    most = size["longest_edge"] if max_pixels is None else max_pixels
    if least > most and min_pixels is not None:
        raise ValueError(
            f"min_pixels {least} is more than max_pixels {most}: no image fits. Raise "
            "model.policy.init_args.max_pixels or lower min_pixels."
        )
    # the processor calls numbers of pixels edges; its own least gives way to a lower most
    images.size = type(images.size)(shortest_edge=min(least, most), longest_edge=most)
    return processor


def load_model(
    source: str,
    random_weights: bool,
    overrides: dict[str, Any],
    dtype: str,
    attention: str,
    quantization: str | None = None,
) -> Any:
    """A model of a checkpoint, or of its configuration alone.

    Args:
        source: what :func:`resolve_model` gave.
        random_weights: read the configuration only.
        overrides: configuration values to replace, nested.
        dtype: name of a torch type, or ``auto`` for the checkpoint's own (float32 without a checkpoint).
        attention: attention kernel of transformers.
        quantization: see :mod:`coprs_lightning.policies.quantized`.

    Raises:
        ValueError: for an override that the configuration does not have, or a weight that the checkpoint lacks.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(source)
    if overrides:
        config = type(config).from_dict(_merged(config.to_dict(), overrides, "config_overrides"))
        _insist(config, overrides)
    kind: Any = dtype if dtype == "auto" else getattr(torch, dtype)
    if random_weights or only_shapes():
        kind = torch.float32 if dtype == "auto" else kind
        return AutoModelForImageTextToText.from_config(config, dtype=kind, attn_implementation=attention)
    options: dict[str, Any] = {"config": config, "dtype": kind, "attn_implementation": attention}
    if quantization is not None:
        own = config.dtype or torch.float32
        options |= loading_options(quantization, own if dtype == "auto" else kind)
    loaded: Any = AutoModelForImageTextToText.from_pretrained(source, **options, output_loading_info=True)
    model, info = loaded
    if quantization is not None:
        del model.config.quantization_config  # what is saved of the policy are plain weights
    missing, unexpected = sorted(map(str, info["missing_keys"])), sorted(map(str, info["unexpected_keys"]))
    _check_loaded(source, missing, unexpected)
    # for whoever checks a run at its start
    counts = {"missing": len(missing), "unexpected": len(unexpected)}
    model.load_report = {"loaded": len(model.state_dict()) - len(missing), **counts}
    return model


class UnusedWeightsWarning(UserWarning):
    """A checkpoint has weights that the model has no place for."""


def _check_loaded(source: str, missing: list[str], unexpected: list[str]) -> None:
    """Insist on what transformers only logs: a weight that is not in the checkpoint would stay random.

    Raises:
        ValueError: naming the missing weights.
    """
    if missing:
        raise ValueError(
            f"{source} lacks {len(missing)} weights of the model that its config.json describes "
            f"({', '.join(missing[:3])} …): they would stay random. Fetch the checkpoint anew, or name another in "
            "model.policy.init_args.model."
        )
    if unexpected:
        warnings.warn(
            f"{source} has {len(unexpected)} weights that the model has no place for ({', '.join(unexpected[:3])} …): "
            "they are left out. Look whether config.json and weights belong together.",
            UnusedWeightsWarning,
            stacklevel=2,
        )


def _merged(values: dict[str, Any], overrides: dict[str, Any], where: str) -> dict[str, Any]:
    """Configuration values with overrides; an unknown name is an error, since transformers would ignore it silently."""
    merged = dict(values)
    if "num_hidden_layers" in overrides:
        merged.pop("layer_types", None)  # one a layer: derived anew unless given
    for name, value in overrides.items():
        if name not in values:
            known = difflib.get_close_matches(name, values) or sorted(key for key in values if not key.startswith("_"))
            raise ValueError(
                f"{where}.{name}: the configuration has no such value, so it would change nothing. "
                f"Did you mean {', '.join(known)}?"
            )
        nested = isinstance(value, dict) and isinstance(values[name], dict)
        merged[name] = _merged(values[name], value, f"{where}.{name}") if nested else value
    return merged


def _insist(config: Any, overrides: dict[str, Any]) -> None:
    """Set what the configuration's own rules changed back (tied embeddings, say, which it takes from the text part)."""
    for name, value in overrides.items():
        current = getattr(config, name)
        if isinstance(value, dict):
            if not isinstance(current, dict):
                _insist(current, value)
        elif current != value:
            setattr(config, name, value)


def save_activation_memory(lm: Any) -> None:
    """Compute activations again in the backward pass."""
    # transformers 6 drops the second name, early 5 has no first
    enable = getattr(lm, "activation_checkpointing_enable", None) or lm.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def neutral_generation(eos_ids: list[int], pad_id: int) -> Any:
    """Generation without a checkpoint's own habits.

    Public checkpoints bring repetition penalties and the like, which ``generate`` would apply on top of our options:
    greedy decoding would not be greedy, and samples would not come from the distribution that is trained.
    """
    from transformers import GenerationConfig

    return GenerationConfig(eos_token_id=eos_ids, pad_token_id=pad_id)


VISION = ("visual", "vision_tower", "vision_model")
"""Names of vision towers in the models that we know: Qwen's, LLaVA's, SmolVLM's."""
PROJECTOR = ("multi_modal_projector", "connector", "image_newline")
"""What turns the tower's features into tokens, beside the tower: LLaVA's, SmolVLM's, LLaVA-OneVision's line break."""
MERGER = ("merger", "deepstack_merger_list")
"""The same inside the tower: Qwen's, and Qwen3-VL's for its inner layers."""


def vision_tower(lm: Any) -> nn.Module:
    """The part of a transformers model that encodes images.

    Raises:
        ValueError: when it is not where those we know have it.
    """
    for name in VISION:
        tower = getattr(lm.model, name, None)
        if isinstance(tower, nn.Module):
            return tower
    raise ValueError(f"train_vision: false, but {type(lm).__name__} has no vision tower that we know of.")


def projector(lm: Any) -> list[nn.Parameter]:
    """Parameters of the part that turns the vision tower's features into tokens of the language model.

    Raises:
        ValueError: when it is not where the models that we know have it.
    """
    tower = next((found for name in VISION if (found := getattr(lm.model, name, None)) is not None), None)
    parts = [getattr(lm.model, name, None) for name in PROJECTOR] + [getattr(tower, name, None) for name in MERGER]
    parameters: list[nn.Parameter] = []
    for part in parts:
        parameters += [part] if isinstance(part, nn.Parameter) else part.parameters() if part is not None else []
    if not parameters:
        raise ValueError(
            f"train_projector is set, but {type(lm).__name__} has no projector that we know of. Leave it out."
        )
    return parameters


def language_model(lm: Any) -> list[nn.Parameter]:
    """Parameters of the text model: embeddings, layers and the projection to words.

    Raises:
        ValueError: when the model has no such part beside others.
    """
    decoder = lm.get_decoder()
    if decoder is lm or decoder is lm.model:
        raise ValueError(
            f"train_language: false, but {type(lm).__name__} has no language model beside other parts that we know of. "
            "Set model.policy.init_args.frozen: true to freeze all of it."
        )
    return [*decoder.parameters(), *lm.get_output_embeddings().parameters()]


def unread_parameters(lm: Any) -> list[nn.Parameter]:
    """Parameters behind the layer of the vision tower that the model reads, as in LLaVA; they get no gradients."""
    read = getattr(lm.config, "vision_feature_layer", None)
    if read is None:
        return []
    tower: Any = vision_tower(lm)
    tower = getattr(tower, "vision_model", tower)
    layers = tower.encoder.layers
    states = range(len(layers) + 1)  # the states before the first layer, and after each
    last = max(states[index] for index in ([read] if isinstance(read, int) else read))
    return [p for part in (*layers[last:], tower.post_layernorm) for p in part.parameters()]


def freeze_parts(lm: Any, *, vision: bool, projector_trained: bool | None, language: bool) -> None:
    """Take parts of a model out of training; what stays keeps its gradients through them.

    Args:
        lm: transformers model.
        vision: train the tower, with a projector inside it.
        projector_trained: train the projector; ``None`` as the part that it lies in.
        language: train the text model.

    Raises:
        ValueError: for a part that the model does not have.
    """
    if not vision:
        vision_tower(lm).requires_grad_(False)
    for parameter in unread_parameters(lm):  # they would stall distributed training
        parameter.requires_grad_(False)
    if projector_trained is not None:
        for parameter in projector(lm):
            parameter.requires_grad_(projector_trained)
    if not language:
        for parameter in language_model(lm):
            parameter.requires_grad_(False)
