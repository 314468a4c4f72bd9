"""The sizes of a model that was built without weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from coprs_lightning.component import Component
from coprs_lightning.model import CoprsModel
from coprs_lightning.sharding.policy import blocks


@dataclass(frozen=True)
class PartSize:
    """Parameters of one part.

    Attributes:
        name: slot, or a part of the policy.
        total: number of parameters; tied ones once.
        trainable: those that get gradients.
        bytes: of all of them.
        trainable_bytes: of those that get gradients.
    """

    name: str
    total: int
    trainable: int
    bytes: int
    trainable_bytes: int


@dataclass(frozen=True)
class Transformer:
    """Sizes of a stack of transformer layers.

    Attributes:
        layers: their number.
        width: of the hidden states.
        kv_width: of the keys, and of the values.
        mlp: width of the MLPs.
        vocabulary: rows of the output projection; 0 without one.
        value_bytes: of one activation.
        trained: whether something in it gets gradients.
    """

    layers: int
    width: int
    kv_width: int
    mlp: int
    vocabulary: int
    value_bytes: int
    trained: bool


@dataclass(frozen=True)
class Sizes:
    """What the formulas of :mod:`coprs_lightning.estimate.memory` read.

    Attributes:
        parts: parameters by slot.
        language: the policy's language model; ``None`` for a policy whose sizes nobody knows.
        vision: its vision tower, likewise.
        image_tokens: patches of the largest image in the vision tower.
        checkpointing: the policy recomputes its activations.
        cells: of the feature grid.
        channels: C of the features.
        segmentation_bytes: of one value in the segmentation parts.
        decoder_width: channels inside the decoder.
        cast_bytes: of copies of weights in another type, which mixed precision holds.
        policy_cast_bytes: the policy's among them.
        outside_layers: parameters of the policy in none of its layers (embeddings, projection).
        largest_layer: parameters of the policy's largest layer.
    """

    parts: list[PartSize]
    language: Transformer | None
    vision: Transformer | None
    image_tokens: int
    checkpointing: bool
    cells: int
    channels: int
    segmentation_bytes: int
    decoder_width: int
    cast_bytes: int = 0
    policy_cast_bytes: int = 0
    outside_layers: int = 0
    largest_layer: int = 0

    @property
    def policy(self) -> PartSize:
        """The policy's parameters."""
        return next(part for part in self.parts if part.name == "policy")


def part_size(name: str, part: nn.Module) -> PartSize:
    """Count the parameters of a part."""
    parameters = list(part.parameters())
    trained = [p for p in parameters if p.requires_grad]
    return PartSize(
        name=name,
        total=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in trained),
        bytes=sum(p.numel() * p.element_size() for p in parameters),
        trainable_bytes=sum(p.numel() * p.element_size() for p in trained),
    )


def measure(model: CoprsModel) -> Sizes:
    """Read the sizes of a model; its weights may be without memory."""
    parts: dict[str, Component] = model.components()
    lm: Any = getattr(model.policy, "lm", None)
    language = vision = None
    image_tokens = 0
    layers: list[int] = []
    if lm is not None:
        language = _language(lm)
        vision, image_tokens = _vision(lm, model.policy)
        layers = [part_size("", layer).total for layer in blocks(lm)]
    policy_total = part_size("", model.policy).total
    heads = next((p for p in model.heatmap_head.parameters()), None)
    return Sizes(
        parts=[part_size(name, part) for name, part in parts.items()],
        language=language,
        vision=vision,
        image_tokens=image_tokens,
        checkpointing=_recomputes(lm),
        cells=(model.image_size // model.backbone.stride) ** 2,
        channels=model.backbone.out_channels,
        segmentation_bytes=4 if heads is None else heads.element_size(),
        decoder_width=int(getattr(model.decoder, "hidden_size", model.backbone.out_channels)),
        outside_layers=policy_total - sum(layers),
        largest_layer=max(layers, default=0),
    )


_WHOLE = {"bf16-true": 2, "16-true": 2, "64-true": 8}
"""Bytes of a value by the precisions of Lightning that convert every weight."""


def with_precision(sizes: Sizes, precision: str) -> Sizes:
    """The same model under one of Lightning's precisions.

    Args:
        sizes: of the model as it is built.
        precision: ``trainer.precision``. A mixed one computes in half precision and leaves the weights as they are: it
            holds casts of those in float32 until the backward pass, of frozen ones only where a gradient runs through
            them (in the policy). A true one converts weights; any other changes nothing.
    """
    if precision in _WHOLE:
        size = _WHOLE[precision]
        parts = [replace(p, bytes=size * p.total, trainable_bytes=size * p.trainable) for p in sizes.parts]
        return replace(_computing_in(sizes, size), parts=parts)
    if "mixed" not in precision:
        return sizes
    policy = _half_of_floats(sizes.policy.total, sizes.policy.bytes)
    others = sum(_half_of_floats(p.trainable, p.trainable_bytes) for p in sizes.parts if p.name != "policy")
    return replace(_computing_in(sizes, 2), cast_bytes=policy + others, policy_cast_bytes=policy)


def _computing_in(sizes: Sizes, value_bytes: int) -> Sizes:
    language, vision = (
        None if stack is None else replace(stack, value_bytes=value_bytes) for stack in (sizes.language, sizes.vision)
    )
    return replace(sizes, language=language, vision=vision, segmentation_bytes=value_bytes)


def _half_of_floats(count: int, size: int) -> int:
    """Bytes of the float32 ones among ``count`` weights in half precision; the others are in it already."""
    return max(0, size - 2 * count)


def _recomputes(lm: Any) -> bool:
    # transformers 6 drops the second name, early 5 has no first
    told = getattr(lm, "is_activation_checkpointing", None)
    return bool(getattr(lm, "is_gradient_checkpointing", False) if told is None else told)


def _first(config: Any, *names: str, default: int = 0) -> int:
    return next((int(getattr(config, name)) for name in names if getattr(config, name, None) is not None), default)


def _language(lm: Any) -> Transformer:
    config = lm.config.get_text_config()
    heads = int(config.num_attention_heads)
    head_width = _first(config, "head_dim", default=int(config.hidden_size) // heads)
    return Transformer(
        layers=int(config.num_hidden_layers),
        width=int(config.hidden_size),
        kv_width=head_width * _first(config, "num_key_value_heads", default=heads),
        mlp=int(config.intermediate_size),
        vocabulary=lm.get_input_embeddings().num_embeddings,
        value_bytes=lm.get_input_embeddings().weight.element_size(),
        trained=any(p.requires_grad for p in lm.get_decoder().parameters()),
    )


def _vision(lm: Any, policy: Any) -> tuple[Transformer | None, int]:
    """The vision tower, and the patches of the largest image that the processor makes."""
    from coprs_lightning.policies.loading import vision_tower

    config = getattr(lm.config, "vision_config", None)
    if config is None:
        return None, 0
    width = _first(config, "hidden_size", "embed_dim")
    tower = vision_tower(lm)
    patch = _first(config, "patch_size", default=14)
    pixels = _first(config, "image_size") ** 2
    most = getattr(getattr(policy.processor, "image_processor", None), "size", None) or {}
    if "longest_edge" in most and not pixels:  # the processor calls numbers of pixels edges
        pixels = int(most["longest_edge"])
    sizes = Transformer(
        layers=_first(config, "depth", "num_hidden_layers"),
        width=width,
        kv_width=width,
        mlp=_first(config, "intermediate_size", default=4 * width),
        vocabulary=0,
        value_bytes=next(tower.parameters()).element_size(),
        trained=any(p.requires_grad for p in tower.parameters()),
    )
    return sizes, pixels // patch**2
