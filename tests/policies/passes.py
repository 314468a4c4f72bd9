"""Three prompts with their images and thoughts, and ways to run a policy over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coprs_lightning.policies import HFPolicy
from coprs_lightning.structures import Completions, PolicyOutput, Prompts
from tests.parts import photos

QUESTIONS = ["the red square", "what is on the left of the large blue circle, behind the small one?", "a cat"]
THOUGHTS = ["it is red", "the circle is large and blue, so what is on its left is the small green square", "cat"]
IMAGES = photos((60, 90), (84, 28), (40, 40))


def repeated(prompts: Prompts, count: int) -> Prompts:
    """One prompt ``count`` times."""
    vision = {key: value.repeat(count, *[1] * (value.ndim - 1)) for key, value in prompts.vision.items()}
    return Prompts(prompts.input_ids.repeat(count, 1), prompts.attention_mask.repeat(count, 1), vision)


def run(policy: HFPolicy, prompts: Prompts, completions: Completions) -> PolicyOutput:
    """A forward pass without gradients."""
    with torch.no_grad():
        return policy(prompts, completions)


def full_logits(policy: HFPolicy, prompts: Prompts, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits of the whole model over prompt and completion, without a cache and without our slicing."""
    vision = dict(prompts.vision)
    vision["mm_token_type_ids"] = torch.cat([vision["mm_token_type_ids"], torch.zeros_like(ids)], 1)
    with torch.no_grad():
        logits: Tensor = policy.lm(
            input_ids=torch.cat([prompts.input_ids, ids], 1),
            attention_mask=torch.cat([prompts.attention_mask, mask], 1).long(),
            use_cache=False,
            **vision,
        ).logits
    return logits


def save_checkpoint(folder: Path, lm: Any, processor: Any) -> Path:
    """A folder as public checkpoints are."""
    lm.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
