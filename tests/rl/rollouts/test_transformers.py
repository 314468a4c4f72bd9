"""Rollout engines: what they ask of the policy, and options out of range."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from coprs_lightning.rl.rollouts import GenerateRollout, RolloutEngine, TransformersRollout
from tests.parts import photos, small_policy


@pytest.mark.parametrize("engine", [TransformersRollout, GenerateRollout])
def test_a_group_of_completions_stands_beside_each_other(engine: type[RolloutEngine]) -> None:
    policy = small_policy()
    prompts = policy.encode_prompts(photos((40, 60), (90, 80)), ["red one", "the biggest of the three"])
    torch.manual_seed(0)
    # so cold that the completions of a prompt are the same, and those of different prompts are not
    written = engine(max_new_tokens=6, temperature=1e-4).sample(policy, prompts, 3)
    assert written.ids.shape == (6, 6)
    assert len(set(written.texts[:3])) == len(set(written.texts[3:])) == 1
    assert written.texts[0] != written.texts[3]
    hot = engine(max_new_tokens=6, temperature=5.0).sample(policy, prompts, 3)
    assert len(set(hot.texts)) == 6


@pytest.mark.parametrize("engine", [TransformersRollout, GenerateRollout])
def test_every_option_reaches_the_policy(engine: type[RolloutEngine]) -> None:
    policy = small_policy()
    prompts = policy.encode_prompts(photos((40, 60)), ["red one"])
    narrow = engine(max_new_tokens=4, temperature=5.0, top_p=1e-6).sample(policy, prompts, 4)
    assert len(set(narrow.texts)) == 1
    assert narrow.ids.shape[1] <= 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "rollout.max_new_tokens must be ≥ 1"),
        ({"temperature": 0.0}, "rollout.temperature must be > 0.*no advantages"),
        ({"temperature": float("inf")}, "rollout.temperature must be > 0 and finite"),
        ({"top_p": 0.0}, r"rollout.top_p must be in \(0, 1\]"),
        ({"top_p": 1.5}, r"rollout.top_p must be in \(0, 1\]"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformersRollout(**options)
