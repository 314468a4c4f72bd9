"""One sequence for a prompt and all its completions, so that the prompt is computed once.

A group of G completions of one prompt is P + ΣR tokens long instead of G·(P + R)::

    tokens     prompt prompt prompt │ a0 a1 a2 │ b0 b1 │ c0 c1 c2
    owner       -1     -1     -1    │ 0  0  0  │ 1  1  │ 2  2  2
    position     0      1      2    │ 3  4  5  │ 3  4  │ 3  4  5

A token sees what lies before it and belongs to the prompt or to its own completion (the mask), and every completion
counts on from the prompt's end (the positions), so each token's state is what it is in a sequence of its own.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coprs_lightning.structures import Completions, Prompts

PROMPT, PADDING = -1, -2


@dataclass
class PackedGroup:
    """B packed sequences of length L.

    Attributes:
        ids: (B, L) int64.
        positions: (B, L), or (3, B, L) for models whose positions have three axes.
        owner: (B, L) int64, number of the completion inside its group, ``PROMPT`` or ``PADDING``.
        columns: (B·G, R) int64, where each completion token lies; 0 for the padding of the completions.
    """

    ids: Tensor
    positions: Tensor
    owner: Tensor
    columns: Tensor


def takes_packed(lm: Any) -> bool:
    """Whether every layer of the text model attends by the mask that packed sequences come with; tells where not."""
    config = lm.get_decoder().config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds == {"full_attention"} and getattr(config, "sliding_window", None):  # Mistral names no types
        kinds = {"sliding_attention"}
    others = kinds - {"full_attention"}
    if others:
        warnings.warn(
            f"{type(lm).__name__} has layers of {', '.join(sorted(others))}, which cannot tell completions in one "
            "sequence from each other. Every completion gets a sequence of its own instead: shared_prefix is off, and "
            "sampling encodes the prompt for each.",
            stacklevel=3,
        )
    return not others


def prompt_positions(lm: nn.Module, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Positions of the prompts' tokens as the model itself counts them, and the position that follows.

    Args:
        lm: transformers model.
        prompts: B prompts padded on the left.

    Returns:
        (B, P) or, for models with three axes (M-RoPE: time, height, width), (3, B, P); and (B,) next positions.
    """
    rope_index: Any = getattr(lm.model, "get_rope_index", None)
    mask = prompts.attention_mask
    if rope_index is None:
        positions = (mask.long().cumsum(1) - 1).clamp_min(0)
        return positions, positions[:, -1] + 1
    given = {"input_ids": prompts.input_ids, "attention_mask": mask.long(), **prompts.vision}
    accepted = inspect.signature(rope_index).parameters
    positions = rope_index(**{name: value for name, value in given.items() if name in accepted})[0]
    return positions, positions.masked_fill(~mask, 0).amax((0, 2)) + 1


def pack(prompts: Prompts, completions: Completions, positions: Tensor, following: Tensor, pad_id: int) -> PackedGroup:
    """Put every prompt and the real tokens of its completions into one sequence.

    Args:
        prompts: B prompts.
        completions: B·G completions, the G of a prompt beside each other.
        positions: of the prompts, see :func:`prompt_positions`.
        following: (B,) position of the first completion token.
        pad_id: token id of padding.
    """
    count, prompt_length = prompts.input_ids.shape
    length = completions.ids.shape[1]
    group = len(completions.ids) // count
    mask = completions.mask.view(count, group * length)
    device = mask.device
    index = mask.long().cumsum(1) - 1  # place of each real token among its prompt's
    width = int(index.max()) + 1
    columns = torch.where(mask, prompt_length + index, 0)
    rows = torch.arange(count, device=device)[:, None].expand_as(columns)[mask]

    def spread(before: Tensor, values: Tensor, fill: int) -> Tensor:
        """(B, P) values of the prompts, then the real ones of (B, G·R) ``values`` without gaps."""
        packed = torch.cat([before, before.new_full((count, width), fill)], 1)
        packed[rows, columns[mask]] = values[mask].to(packed.dtype)
        return packed

    owners = torch.arange(group, device=device).repeat_interleave(length).expand(count, -1)
    steps = (following[:, None] + torch.arange(length, device=device)).repeat(1, group)
    prompt_owner = torch.where(prompts.attention_mask, PROMPT, PADDING)
    axes = positions if positions.ndim == 3 else positions[None]
    packed_positions = torch.stack([spread(axis, steps, 0) for axis in axes])
    return PackedGroup(
        ids=spread(prompts.input_ids, completions.ids.view(count, -1), pad_id),
        positions=packed_positions if positions.ndim == 3 else packed_positions[0],
        owner=spread(prompt_owner, owners, PADDING),
        columns=columns.view(count * group, length),
    )


def visible(query_owner: Tensor, key_owner: Tensor) -> Tensor:
    """(B, Q, T) bool: the key belongs to the prompt or to the query's own completion (order left aside)."""
    keys = key_owner[:, None]
    return (keys == PROMPT) | ((keys == query_owner[..., None]) & (keys != PADDING))


def attention_mask(owner: Tensor, implementation: str, dtype: torch.dtype) -> Any:
    """The packed sequences' mask in the form that an attention kernel of transformers takes.

    Args:
        owner: (B, L), see :class:`PackedGroup`.
        implementation: ``sdpa``, ``eager`` or ``flex_attention``.
        dtype: of the hidden states.

    Returns:
        (B, 1, L, L) bool for sdpa, additive in ``dtype`` for eager, a block mask for flex attention.

    Raises:
        ValueError: for a kernel that takes no such mask.
    """
    length = owner.shape[1]
    if implementation == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same = (owner[batch, key] == PROMPT) | (
                (owner[batch, key] == owner[batch, query]) & (owner[batch, key] != PADDING)
            )
            return ((key <= query) & same) | (key == query)

        return create_block_mask(allowed, len(owner), None, length, length, device=owner.device)
    causal = torch.ones(length, length, dtype=torch.bool, device=owner.device).tril()
    # padding sees itself: a row without any key would be NaN
    mask = (visible(owner, owner) & causal) | torch.eye(length, dtype=torch.bool, device=owner.device)
    return as_kernel_mask(mask[:, None], implementation, dtype)


def as_kernel_mask(mask: Tensor, implementation: str, dtype: torch.dtype) -> Tensor:
    """A (B, 1, Q, T) bool mask as sdpa (as it is) or eager attention (added to the scores) takes it.

    Raises:
        ValueError: for a kernel that takes no mask of this form.
    """
    if implementation == "sdpa":
        return mask
    if implementation == "eager":
        return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)
    raise ValueError(
        f"attn_implementation {implementation!r} takes no mask that is not causal, so completions cannot share their "
        "prompt. Use sdpa (or flex_attention for training on a GPU), or set shared_prefix: false and the rollout to "
        "GenerateRollout."
    )


def repeat_prompts(prompts: Prompts, times: int) -> Prompts:
    """Every prompt ``times`` times, copies beside each other.

    Raises:
        ValueError: for images in a form that cannot be told apart.
    """
    count = len(prompts.input_ids)
    vision = {}
    for name, value in prompts.vision.items():
        if len(value) == count:
            vision[name] = value.repeat_interleave(times, 0)
        elif "image_grid_thw" in prompts.vision:  # patches of all images behind each other
            patches = value.split(prompts.vision["image_grid_thw"].prod(1).tolist())
            vision[name] = torch.cat([image for image in patches for _ in range(times)])
        else:
            raise ValueError(
                f"the processor gives {name} of shape {tuple(value.shape)} for {count} prompts: the images of the "
                "prompts cannot be told apart, so they cannot be repeated for a group. Set shared_prefix: true."
            )
    return Prompts(
        prompts.input_ids.repeat_interleave(times, 0), prompts.attention_mask.repeat_interleave(times, 0), vision
    )
