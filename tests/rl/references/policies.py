"""Policies that are changed by training, and what they compute."""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor

from coprs_lightning.policies import HFPolicy, LoraOptions
from tests.parts import photos, small_policy

IMAGES, QUESTIONS, THOUGHTS = photos((60, 90), (84, 28)), ["the red square", "a cat"], ["it is red", "it has a tail"]


@functools.cache
def _built(lora: bool) -> HFPolicy:
    return small_policy(lora=LoraOptions(rank=4) if lora else None)


def fresh_policy(*, lora: bool) -> HFPolicy:
    """Always with the same weights."""
    return copy.deepcopy(_built(lora))


def log_probs(policy: HFPolicy) -> Tensor:
    """(2, R) of the written thoughts."""
    completions = policy.encode_completions(THOUGHTS)
    output = policy(policy.encode_prompts(IMAGES, QUESTIONS), completions)
    return policy.log_probs(output, completions).log_probs


def train(policy: HFPolicy, steps: int = 3) -> None:
    """Change the policy by optimizer steps, and leave it in training mode."""
    policy.train()
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (-log_probs(policy).sum()).backward()
        optimizer.step()
