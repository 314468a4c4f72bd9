"""The format rule, case by case (paper section 3, rewards)."""

from __future__ import annotations

import pytest
import torch

from coprs_lightning.prompts import PAPER_PROMPT, parse_completion, several_prompt
from coprs_lightning.rl.rewards import FormatReward, checked_scores
from coprs_lightning.spec import build
from tests.rl.rewards.inputs import GOOD, reward_inputs

WORDS = "one two three four five six seven eight nine ten"

CASES = {
    # well formed
    GOOD: 1.0,
    PAPER_PROMPT.render_completion("it is the left one"): 1.0,
    "<think>a</think><REF_POS>": 1.0,
    " \n\t<think>\na\n</think>\n<REF_POS>": 1.0,
    "<think>a</think><REF_POS> and then whatever one likes, of more than ten words: the rule does not look at it": 1.0,
    f"<think>a</think>{WORDS}<REF_POS>": 1.0,
    f"<think>{'x' * 2048}</think><REF_POS>": 1.0,
    # too long, or text before the thought
    f"<think>a</think>{WORDS} eleven<REF_POS>": 0.9,
    f"<think>{'x' * 2049}</think><REF_POS>": 0.9,
    f"<think>{' ' * 2048}x</think><REF_POS>": 0.9,
    f"Well: {GOOD}": 0.9,
    f".{GOOD}": 0.9,
    f"Well: <think>{'x' * 5000}</think>{WORDS} eleven<REF_POS>": 0.9,
    # malformed
    "": 0.0,
    "the red one": 0.0,
    "<REF_POS>": 0.0,
    "<think>a</think>": 0.0,
    "<think></think><REF_POS>": 0.0,
    "<think> \n </think><REF_POS>": 0.0,
    "<think>a<REF_POS>": 0.0,
    "a</think><REF_POS>": 0.0,
    "</think>a<think><REF_POS>": 0.0,
    "<REF_POS><think>a</think>": 0.0,
    "<think>a <REF_POS></think>": 0.0,
    "<think>a <REF_POS></think><REF_POS>": 0.0,
    "<think>a</think><REF_POS><REF_POS>": 0.0,
    "<think>a</think><think>b</think><REF_POS>": 0.0,
    "<think>a</think></think><REF_POS>": 0.0,
    "<think>a<think>b</think><REF_POS>": 0.0,
}


@pytest.mark.parametrize(("text", "expected"), CASES.items(), ids=lambda value: str(value)[:40])
def test_cases(text: str, expected: float) -> None:
    assert FormatReward().score(text) == expected
    # what is counted as malformed and what scores 0 is one and the same
    assert (expected > 0) is parse_completion(text).well_formed


def test_scores_of_a_batch() -> None:
    inputs = reward_inputs(list(CASES))
    scores = checked_scores(FormatReward(), inputs)
    torch.testing.assert_close(scores, torch.tensor(list(CASES.values())))
    assert FormatReward().range == (0.0, 1.0)


def test_as_many_tokens_as_the_prompt_asks_for() -> None:
    two = several_prompt(2).render_completion("there are two")
    texts = [two, GOOD, two + "<REF_POS>", "<REF_POS><think>a</think><REF_POS>", f"Well: {two}"]
    scores = FormatReward()(reward_inputs(texts, num_tokens=2))
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.0, 0.0, 0.0, 0.9]))


def test_limits_are_options() -> None:
    reward = FormatReward(max_thought_characters=3, max_answer_words=0, demoted=0.25)
    assert reward.score("<think>abc</think><REF_POS>") == 1.0
    assert reward.score("<think>abcd</think><REF_POS>") == 0.25
    assert reward.score("<think>abc</think>a<REF_POS>") == 0.25
    assert build(reward.spec).spec == reward.spec


@pytest.mark.parametrize("demoted", [-0.1, 1.1])
def test_demoted_lies_between(demoted: float) -> None:
    with pytest.raises(ValueError, match=rf"FormatReward\.demoted must lie in \[0, 1\], got {demoted}"):
        FormatReward(demoted=demoted)


@pytest.mark.parametrize("name", ["max_thought_characters", "max_answer_words"])
def test_limits_are_not_negative(name: str) -> None:
    with pytest.raises(ValueError, match=rf"FormatReward\.{name} must be ≥ 0, got -1"):
        FormatReward(**{name: -1})
