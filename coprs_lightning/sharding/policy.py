"""Dividing a policy's weights among processes with torch's ``fully_shard`` (FSDP2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from coprs_lightning.sharding.gather import PASS, START, is_sharded, sharded_parts, stop_recording

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from coprs_lightning.policies import Policy


def blocks(lm: nn.Module) -> list[nn.Module]:
    """The layers of a transformers model, of its vision tower too: what is called as one, and often.

    Transformers recomputes exactly these in the backward pass where memory is short.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    found: list[nn.Module] = []
    inside: set[int] = set()
    for module in lm.modules():
        if isinstance(module, GradientCheckpointingLayer) and id(module) not in inside:
            found.append(module)
            inside.update(id(inner) for inner in module.modules())
    return found


def shard_policy(policy: Policy, mesh: DeviceMesh, *, precision: str, trained: bool = True) -> None:
    """Divide a policy's weights; nothing happens where they are divided.

    Every layer is a group of its own, gathered when it computes and given back after. Everything else of the language
    model is one more group: embeddings and projection may be one matrix, and are used outside of any layer.

    Args:
        policy: with all of its weights in place, the same in every process.
        mesh: processes that each take a part.
        precision: of the trainer; under ``bf16-mixed`` weights are gathered in bfloat16, gradients added in float32.
        trained: there will be backward passes.

    Raises:
        ValueError: for a policy without a transformers model, or one of quantised weights.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    lm: Any = getattr(policy, "lm", None)
    if not isinstance(lm, nn.Module):
        raise ValueError(
            f"{type(policy).__name__} has no transformers model, so its weights cannot be divided. Use "
            "trainer/ddp.yaml, or HFPolicy."
        )
    if is_sharded(lm):
        return
    if policy.quantized:
        raise ValueError(
            "model.policy.init_args.quantization: weights of 4 or 8 bits cannot be divided among processes. Use "
            "trainer/ddp.yaml, or leave quantization out."
        )
    policy.assets()  # kept: made while the model's class has its own name
    options: dict[str, Any] = {"mesh": mesh, "mp_policy": _precision(lm, precision, MixedPrecisionPolicy)}
    for block in blocks(lm):
        fully_shard(block, reshard_after_forward=True, **options)
    fully_shard(lm, reshard_after_forward=False, **options)
    inner: Any = lm.model
    lm.__dict__[PASS] = lambda *args, **kwargs: inner(*args, **kwargs)
    lm.__dict__[START] = lambda: None
    for method in (PASS, START):
        register_fsdp_forward_method(lm, method)
    if not trained:
        stop_recording(sharded_parts(lm))


def _precision(lm: nn.Module, precision: str, policy: Any) -> Any:
    """In which types weights are gathered and gradients added.

    Under autocast a gathered weight in float32 would be copied to bfloat16, and the copies kept until the pass is over.
    """
    inputs = {"cast_forward_inputs": False}  # rotary angles stay in float32
    if precision == "bf16-mixed":
        return policy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, **inputs)
    if any(p.dtype in (torch.bfloat16, torch.float16) for p in lm.parameters()):
        return policy(reduce_dtype=torch.float32, **inputs)
    return policy(**inputs)
