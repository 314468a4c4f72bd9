"""Sampling several completions of a prompt over one key–value cache.

The prompt, image included, goes through the model once. Then all completions of a prompt advance together: their next
tokens are columns of one sequence whose mask lets each see the prompt and its own past only (see
:mod:`coprs_lightning.policies.packing`). The prompt's keys and values exist once, whatever the size of the group, and a
completion that has ended takes no further part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from coprs_lightning.policies.packing import PADDING, PROMPT, as_kernel_mask, prompt_positions, visible
from coprs_lightning.sharding.gather import gathered, whole_pass
from coprs_lightning.structures import Prompts


def check_sampling(max_new_tokens: int, temperature: float, top_p: float) -> None:
    """Refuse options of sampling that are out of range.

    Raises:
        ValueError: naming the option.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be ≥ 1, got {max_new_tokens}: nothing would be written.")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be ≥ 0 and finite, got {temperature}; 0 decodes greedily.")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}; 1 samples from all tokens.")


@contextmanager
def decoding(lm: Any) -> Iterator[None]:
    """Eval mode, all weights at hand, and a kernel that takes the masks of decoding; as before afterwards."""
    training = lm.training
    config = lm.get_decoder().config
    kernel = config._attn_implementation
    lm.eval()
    config._attn_implementation = "sdpa" if kernel == "flex_attention" else kernel
    try:
        with gathered(lm):
            yield
    finally:
        lm.train(training)
        config._attn_implementation = kernel


def next_tokens(logits: Tensor, suppressed: Tensor, temperature: float, top_p: float) -> Tensor:
    """Draw one token a row.

    Args:
        logits: (N, V).
        suppressed: (V,) bool, ids that are never drawn.
        temperature: 0 takes the likeliest.
        top_p: least probability mass that is sampled from.

    Returns:
        (N,) ids.
    """
    logits = logits.float().masked_fill(suppressed, -torch.inf)
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p  # the likeliest token always stays
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(beyond, 0.0))
    return torch.multinomial(probabilities, 1)[:, 0]


@torch.no_grad()
def sampled_steps(
    lm: Any,
    prompts: Prompts,
    num_generations: int,
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    suppressed: Tensor,
    end_ids: Tensor,
    pad_id: int,
) -> Iterator[Tensor]:
    """Sample G completions of each of B prompts with one prefill, step by step.

    Args:
        lm: transformers model in eval mode.
        prompts: B prompts padded on the left.
        num_generations: G.
        max_new_tokens: longest completion.
        temperature: 0 is greedy.
        top_p: least probability mass sampled from.
        suppressed: (V,) bool, ids that are never drawn.
        end_ids: ids that end a completion.
        pad_id: what follows an end.

    Yields:
        (B·G, r) ids after every step r, the G of a prompt beside each other; at last (B·G, R).
    """
    count = len(prompts.input_ids)
    device = prompts.input_ids.device
    positions, following = prompt_positions(lm, prompts)
    prefill = whole_pass(lm)(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask.long(),
        position_ids=positions,
        use_cache=True,
        **prompts.vision,
    )
    cache = prefill.past_key_values
    logits = lm.lm_head(prefill.last_hidden_state[:, -1]).repeat_interleave(num_generations, 0)

    ids = torch.full((count, num_generations, max_new_tokens), pad_id, dtype=torch.long, device=device)
    # the completions that a step works on: numbers (B, n) inside their groups, PADDING where a prompt has fewer left
    active = torch.arange(num_generations, device=device).expand(count, -1)
    key_owner = torch.where(prompts.attention_mask, PROMPT, PADDING)
    implementation = lm.get_decoder().config._attn_implementation
    for step in range(max_new_tokens):
        drawn = next_tokens(logits, suppressed, temperature, top_p).view(active.shape)
        real = active != PADDING
        rows = torch.arange(count, device=device)[:, None].expand_as(active)
        ids[rows[real], active[real], step] = drawn[real]
        active = torch.where(torch.isin(drawn, end_ids), PADDING, active)
        yield ids[..., : step + 1].reshape(count * num_generations, -1)
        if step + 1 == max_new_tokens or not (active != PADDING).any():
            return
        # completions that go on come first; columns that no prompt needs any more are dropped
        order = (active == PADDING).to(torch.int8).argsort(dim=1, stable=True)
        width = int((active != PADDING).sum(1).max())
        active = active.gather(1, order)[:, :width]
        drawn = drawn.gather(1, order)[:, :width]
        key_owner = torch.cat([key_owner, active], 1)
        mask = visible(active, key_owner)[:, None]
        place = (following + step)[:, None].expand_as(active)
        hidden = whole_pass(lm)(
            input_ids=drawn,
            attention_mask=as_kernel_mask(mask, implementation, prefill.last_hidden_state.dtype),
            position_ids=place if positions.ndim == 2 else place.expand(len(positions), -1, -1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        logits = lm.lm_head(hidden).flatten(0, 1)


def sample_group(lm: Any, prompts: Prompts, num_generations: int, **options: Any) -> Tensor:
    """All steps of :func:`sampled_steps` at once, with its options.

    Returns:
        (B·G, R) ids, the G of a prompt beside each other.
    """
    return deque(sampled_steps(lm, prompts, num_generations, **options), maxlen=1).pop()
