"""Sampling over one cache: same tokens as transformers' own decoding, and what must never be drawn."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from coprs_lightning.policies import HFPolicy
from coprs_lightning.policies.sampling import next_tokens
from coprs_lightning.structures import Completions, Prompts
from tests.parts import photos, small_policy


@pytest.fixture(scope="module")
def policy() -> HFPolicy:
    """Shared by the tests that do not change it."""
    return small_policy()


def prompts_of(policy: HFPolicy) -> Prompts:
    """Three prompts of different lengths over different images."""
    questions = ["red one", "the biggest of the three on the left side", "x"]
    return policy.encode_prompts(photos((40, 60), (90, 80), (30, 30)), questions)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_greedy_tokens_are_those_of_transformers(kernel: str) -> None:
    policy = small_policy(attn_implementation=kernel)
    mine = policy.sample(prompts_of(policy), num_generations=3, max_new_tokens=24, temperature=0.0)
    theirs = policy.generate(prompts_of(policy), num_generations=3, max_new_tokens=24, temperature=0.0)
    assert torch.equal(mine.ids, theirs.ids)
    assert mine.texts == theirs.texts


def with_ends(policy: HFPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let common words end a completion, so that completions of a group end at different steps."""
    common = list(range(40, 400))
    monkeypatch.setattr(type(policy), "_eos_ids", property(lambda self: common))


def test_completions_that_end_early_leave_the_others_alone(policy: HFPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    with_ends(policy, monkeypatch)
    torch.manual_seed(0)
    prompts = prompts_of(policy)
    sampled = policy.sample(prompts, num_generations=6, max_new_tokens=16, temperature=1.5)
    lengths = sampled.mask.sum(1)
    assert len(set(lengths.tolist())) > 3, "the test needs completions of different lengths"
    # what was drawn has to be what separate sequences would find likely: the same log-probabilities either way
    policy.shared_prefix = False
    separate = policy.log_probs(policy(prompts, sampled), sampled, temperature=1.5).log_probs
    policy.shared_prefix = True
    assert (separate[sampled.mask] > -20).all()


def test_samples_follow_the_distribution_whose_log_probabilities_are_trained() -> None:
    policy = small_policy()
    few = {60, 61, 62, 63}
    words = policy.lm.get_input_embeddings().num_embeddings
    policy.__dict__["_forbidden_ids"] = sorted(set(range(words)) - few)  # few words: enough samples of each
    prompts = policy.encode_prompts(photos((40, 60)), ["red one"])
    torch.manual_seed(1)
    sampled = policy.sample(prompts, num_generations=1000, max_new_tokens=2, temperature=4.0)
    tokens = policy.log_probs(policy(prompts, sampled), sampled, temperature=4.0)
    pairs = [tuple(pair) for pair in sampled.ids.tolist()]
    likely = max(set(pairs), key=pairs.count)[0]
    for column, rows in ((0, range(1000)), (1, [row for row in range(1000) if pairs[row][0] == likely])):
        probabilities = {pairs[row][column]: tokens.log_probs[row, column].exp().item() for row in rows}
        assert len(probabilities) >= 2
        for word, probability in probabilities.items():
            share = sum(pairs[row][column] == word for row in rows) / len(rows)
            assert abs(share - probability) < 4.5 * (probability * (1 - probability) / len(rows)) ** 0.5 + 2e-3


def test_forbidden_tokens_are_never_drawn_and_have_no_probability(policy: HFPolicy) -> None:
    torch.manual_seed(0)
    sampled = policy.sample(prompts_of(policy), num_generations=16, max_new_tokens=32, temperature=50.0)  # ≈ uniform
    forbidden = set(policy._forbidden_ids)
    assert {policy.lm.config.image_token_id, policy.lm.config.video_token_id} <= forbidden
    assert not forbidden & set(sampled.ids[sampled.mask].tolist())
    first = sampled.ids.clone()
    first[:, 0] = policy.lm.config.image_token_id
    placeholder = Completions(first, sampled.mask, sampled.texts, sampled.truncated)
    output = policy(prompts_of(policy), sampled)
    assert (policy.log_probs(output, placeholder).log_probs[:, 0] == -torch.inf).all()


def test_the_weights_being_trained_are_the_ones_that_sample() -> None:
    policy = small_policy()
    prompts = prompts_of(policy)
    before = policy.sample(prompts, num_generations=2, max_new_tokens=8, temperature=0.0)
    with torch.no_grad():
        policy.lm.lm_head.weight[77] += 10.0 * policy.lm.lm_head.weight.abs().amax()
    after = policy.sample(prompts, num_generations=2, max_new_tokens=8, temperature=0.0)
    assert not torch.equal(before.ids, after.ids)


def test_sampling_restores_the_mode(policy: HFPolicy) -> None:
    policy.train()
    policy.sample(prompts_of(policy), num_generations=2, max_new_tokens=2)
    assert policy.lm.training
    with pytest.raises(ValueError, match="max_new_tokens must be ≥ 1"):
        policy.sample(prompts_of(policy), num_generations=2, max_new_tokens=0)
    policy.eval()


def test_truncated_completions_are_marked(policy: HFPolicy) -> None:
    sampled = policy.sample(prompts_of(policy), num_generations=2, max_new_tokens=2)
    ended = torch.isin(sampled.ids, torch.tensor(policy._eos_ids)).any(1)
    assert torch.equal(sampled.truncated, ~ended)


LOGITS = torch.tensor([[0.0, 1.0, 2.0, 3.0, 9.0]]).log_softmax(-1)


@pytest.mark.parametrize(
    ("options", "drawn"),
    [
        ({"temperature": 0.0, "top_p": 1.0}, {3}),
        ({"temperature": 1.0, "top_p": 1.0}, {0, 1, 2, 3}),
        ({"temperature": 1.0, "top_p": 0.8}, {2, 3}),
        ({"temperature": 1.0, "top_p": 1e-6}, {3}),
        ({"temperature": 0.05, "top_p": 1.0}, {3}),
    ],
)
def test_temperature_and_top_p(options: dict[str, Any], drawn: set[int]) -> None:
    torch.manual_seed(0)
    suppressed = torch.tensor([False, False, False, False, True])
    tokens: Tensor = next_tokens(LOGITS.expand(2000, -1), suppressed, **options)
    assert set(tokens.tolist()) == drawn


def test_a_stream_tells_the_completion_while_it_is_written(policy: HFPolicy) -> None:
    prompts = policy.encode_prompts(photos((40, 60)), ["the red one"])
    told = list(policy.stream(prompts, max_new_tokens=9))
    whole = policy.generate(prompts, max_new_tokens=9)
    assert torch.equal(told[-1].ids, whole.ids)
    assert told[-1].texts == whole.texts
    assert [item.ids.shape[1] for item in told] == list(range(1, len(told) + 1))
    assert all(later.texts[0].startswith(earlier.texts[0].rstrip("�")) for earlier, later in itertools.pairwise(told))


def test_a_stream_leaves_the_policy_as_it_was_between_tokens() -> None:
    policy = small_policy(attn_implementation="flex_attention").train()
    stream = policy.stream(policy.encode_prompts(photos((40, 60)), ["x"]), max_new_tokens=4)
    next(stream)
    assert policy.lm.training
    assert policy.lm.get_decoder().config._attn_implementation == "flex_attention"
    assert torch.is_grad_enabled()


def test_a_stream_refuses_what_generate_refuses(policy: HFPolicy) -> None:
    prompts = policy.encode_prompts(photos((40, 60)), ["x"])
    with pytest.raises(ValueError, match="max_new_tokens must be ≥ 1"):
        next(policy.stream(prompts, max_new_tokens=0))
