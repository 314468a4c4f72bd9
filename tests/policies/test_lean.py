"""What the policy does not ask of the model: inner layers' states, and logits of prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from coprs_lightning.policies import HFPolicy
from coprs_lightning.structures import Completions, Prompts
from tests.parts import photos, small_policy

GROUP, LENGTHS = 2, (4, 9, 1, 6)
"""Of the completions; two prompts."""


class Watch:
    """Notes what passes through a model.

    Attributes:
        projected: tokens of every call of the vocabulary's projection.
        outputs: of the model below it.
    """

    def __init__(self, lm: Any) -> None:
        self.projected: list[int] = []
        self.outputs: list[Any] = []
        lm.lm_head.register_forward_hook(self._head)
        lm.model.register_forward_hook(self._model)

    def _head(self, head: nn.Module, args: Any, logits: torch.Tensor) -> None:
        self.projected.append(logits[..., 0].numel())

    def _model(self, model: nn.Module, args: Any, output: Any) -> None:
        self.outputs.append(output)


@pytest.fixture(params=[True, False], ids=["shared prompt", "separate"])
def policy(request: pytest.FixtureRequest) -> HFPolicy:
    return small_policy(shared_prefix=request.param, log_prob_chunk=8)


@pytest.fixture
def prompts(policy: HFPolicy) -> Prompts:
    return policy.encode_prompts(photos((40, 60), (90, 80)), ["red one", "the biggest of the three"])


def completions(policy: HFPolicy) -> Completions:
    ids = torch.randint(40, 200, (len(LENGTHS), max(LENGTHS)))
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return Completions(ids, mask, [""] * len(LENGTHS), torch.zeros(len(LENGTHS), dtype=torch.bool))


def test_a_pass_gives_the_last_layers_states_and_no_logits(policy: HFPolicy, prompts: Prompts) -> None:
    watch = Watch(policy.lm)
    output = policy.train()(prompts, completions(policy))
    assert watch.projected == []
    (found,) = watch.outputs
    assert found.hidden_states is None
    assert found.attentions is None
    assert found.past_key_values is None
    assert output.hidden.shape[-1] == policy.hidden_size


def test_log_probabilities_project_real_completion_tokens_a_chunk_at_a_time(policy: HFPolicy, prompts: Prompts) -> None:
    written = completions(policy)
    output = policy.train()(prompts, written)
    watch = Watch(policy.lm)
    values = policy.log_probs(output, written).log_probs
    assert watch.projected == [8, 8, 4]
    assert sum(watch.projected) == sum(LENGTHS)
    values.sum().backward()
    assert sorted(watch.projected) == [4, 4, 8, 8, 8, 8]  # again in the backward pass, none of them kept


def test_cross_entropy_projects_completions_alone(policy: HFPolicy, prompts: Prompts) -> None:
    written = completions(policy)
    output = policy(prompts, written)
    watch = Watch(policy.lm)
    policy.completion_logits(output)
    assert watch.projected == [written.ids.numel()]


WAYS: dict[str, Callable[[HFPolicy, Prompts], Completions]] = {
    "sample": lambda policy, prompts: policy.sample(prompts, num_generations=GROUP, max_new_tokens=5),
    "generate": lambda policy, prompts: policy.generate(prompts, max_new_tokens=5),
}


@pytest.mark.parametrize("way", WAYS)
def test_writing_projects_the_last_token_of_each_sequence(policy: HFPolicy, prompts: Prompts, way: str) -> None:
    watch = Watch(policy.lm)
    with torch.no_grad():
        written = WAYS[way](policy, prompts)
    rows = len(written.ids)
    assert watch.projected[0] <= rows  # of the prompts: those of a group share one
    assert max(watch.projected) <= rows
    assert all(output.hidden_states is None for output in watch.outputs)
