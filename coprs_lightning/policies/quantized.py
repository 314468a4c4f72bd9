"""Weights of 4 or 8 bits by bitsandbytes: a policy that is frozen, or trained through adapters, in less memory.

Quantised weights never change, and the checkpoint that they were read from has them: they are left out of our
checkpoints. Merged with adapters, or exported, they are plain weights again.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor, nn

PACKAGES = ("bitsandbytes", "accelerate")


def check_quantization(kind: str | None, *, random_weights: bool, fixed: bool) -> None:
    """Refuse what cannot be quantised before anything is loaded.

    Args:
        kind: ``4bit``, ``8bit`` or ``None``.
        random_weights: there is nothing to quantise.
        fixed: the policy's own weights are not trained.

    Raises:
        ValueError: for weights that would be trained or do not exist.
        ImportError: without bitsandbytes or accelerate.
    """
    if kind is None:
        return
    option = f"model.policy.init_args.quantization: {kind}"
    if random_weights:
        raise ValueError(f"{option} quantises the weights of a checkpoint, but random_weights is true. Leave one out.")
    if not fixed:
        raise ValueError(
            f"{option}, but quantised weights cannot be trained. Set lora to train adapters, or frozen: true."
        )
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"{option} needs the package {' and '.join(missing)}, which is not installed. Install it with "
            "pip install 'coprs_lightning[quantization]', or leave quantization out."
        )


def loading_options(kind: str, compute: torch.dtype) -> dict[str, Any]:
    """What ``from_pretrained`` has to be told; on this process' GPU, or on the CPU where there is none.

    Args:
        kind: ``4bit`` (NF4 with quantised scales, as in QLoRA) or ``8bit``.
        compute: type that products are computed in.
    """
    from transformers import BitsAndBytesConfig

    config: Any = BitsAndBytesConfig  # its hints are incomplete
    if kind == "4bit":
        quantized = config(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
    else:
        quantized = config(load_in_8bit=True)
    gpu = torch.cuda.is_available()
    device: Any = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())) if gpu else "cpu"
    return {"quantization_config": quantized, "device_map": {"": device}}


def quantized_layers(lm: nn.Module) -> dict[str, Any]:
    """Layers whose weights are quantised, by name."""
    return {
        name: module
        for name, module in lm.named_modules()
        if type(module).__module__.startswith("bitsandbytes.") and isinstance(getattr(module, "weight", None), Tensor)
    }


@torch.no_grad()
def plain_weight(layer: Any, dtype: torch.dtype) -> Tensor:
    """A layer's weight: quantised ones as numbers of ``dtype``, others as they are."""
    weight: Any = layer.weight
    kind = type(weight).__name__
    if kind not in ("Params4bit", "Int8Params"):
        return weight.detach()  # type: ignore[no-any-return]
    from bitsandbytes import functional

    if kind == "Params4bit":
        return functional.dequantize_4bit(weight.data, weight.quant_state).to(dtype)  # type: ignore[no-any-return]
    scales = layer.state.SCB if weight.SCB is None else weight.SCB  # they move in the first forward pass
    return functional.int8_vectorwise_dequant(weight.data, scales).to(dtype)  # type: ignore[no-any-return]


def plain_state(lm: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """State of a model, quantised weights in it as numbers of ``dtype``."""
    layers = quantized_layers(lm)
    inside = tuple(f"{name}." for name in layers)
    state = {name: value for name, value in lm.state_dict().items() if not (inside and name.startswith(inside))}
    for name, layer in layers.items():
        state[f"{name}.weight"] = plain_weight(layer, dtype)
        if layer.bias is not None:
            state[f"{name}.bias"] = layer.bias.detach()
    return state


def keep_out_of_states(policy: nn.Module) -> None:
    """Leave quantised weights out of a policy's state, and as they are when a state is loaded.

    Args:
        policy: its ``lm`` is the quantised model.
    """
    policy.register_state_dict_post_hook(_leave_out)
    policy.register_load_state_dict_pre_hook(_supply)


def _own_keys(policy: Any, state: dict[str, Any], prefix: str) -> list[str]:
    """Keys of a state that belong to quantised weights: the numbers, and the scales that go with them."""
    layers = tuple(f"{prefix}lm.{name}." for name in quantized_layers(policy.lm))
    return [key for key in state if key.startswith(layers) and not key.endswith(".bias") and ".lora_" not in key]


def _leave_out(policy: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for key in _own_keys(policy, state, prefix):
        del state[key]


def _supply(policy: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    foreign = _own_keys(policy, state, prefix)
    if foreign:
        raise ValueError(
            f"the state holds {foreign[0]}, but the policy's weights are quantised and stay as they were read from its "
            "checkpoint. Export that state and name the exported policy as the model, or leave "
            "model.policy.init_args.quantization out."
        )
    for name, layer in quantized_layers(policy.lm).items():
        state[f"{prefix}lm.{name}.weight"] = layer.weight.detach()
