"""Last-layer hidden states of prompts and their completions, in separate sequences or in packed ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from coprs_lightning.policies.packing import attention_mask, pack, prompt_positions
from coprs_lightning.sharding.gather import whole_pass
from coprs_lightning.structures import Completions, Prompts


def separate_hidden(lm: Any, prompts: Prompts, completions: Completions) -> Tensor:
    """(N, P + R, D) states of one sequence a completion."""
    attention = torch.cat([prompts.attention_mask, completions.mask], 1)
    vision = {
        # what the processor gives per prompt token (token types) has to cover the completion too: type 0 is text
        key: nn.functional.pad(value, (0, completions.ids.shape[1]))
        if value.shape == prompts.input_ids.shape
        else value
        for key, value in prompts.vision.items()
    }
    own: dict[str, Any] = {}
    if not hasattr(lm.model, "get_rope_index"):  # which counts for itself; others count padding on the left too
        own["position_ids"] = (attention.long().cumsum(1) - 1).clamp_min(0)
    hidden: Tensor = whole_pass(lm)(
        input_ids=torch.cat([prompts.input_ids, completions.ids], 1),
        attention_mask=attention.long(),
        use_cache=False,
        **own,
        **vision,
    ).last_hidden_state
    return hidden


def packed_hidden(lm: Any, prompts: Prompts, completions: Completions, pad_id: int) -> Tensor:
    """(B·G, P + R, D) states of one sequence a prompt, laid out as :func:`separate_hidden` does."""
    positions, following = prompt_positions(lm, prompts)
    packed = pack(prompts, completions, positions, following, pad_id)
    extra = packed.ids.shape[1] - prompts.input_ids.shape[1]
    vision = {
        key: nn.functional.pad(value, (0, extra)) if value.shape == prompts.input_ids.shape else value
        for key, value in prompts.vision.items()
    }
    hidden = whole_pass(lm)(
        input_ids=packed.ids,
        attention_mask=attention_mask(packed.owner, lm.get_decoder().config._attn_implementation, lm.dtype),
        position_ids=packed.positions,
        use_cache=False,
        **vision,
    ).last_hidden_state
    count, length, size = hidden.shape
    group = len(completions.ids) // count
    offsets = torch.arange(count, device=hidden.device).repeat_interleave(group)[:, None] * length
    written = hidden.reshape(-1, size).index_select(0, (packed.columns + offsets).flatten())
    written = written.view(count * group, -1, size)
    before = hidden[:, : prompts.input_ids.shape[1]].repeat_interleave(group, 0)
    return torch.cat([before, written], 1)
