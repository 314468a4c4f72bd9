"""Shares and lengths of completions."""

from __future__ import annotations

import math

import pytest
import torch

from coprs_lightning.metrics import CompletionRates

GOOD = "<think> it floats </think>\nHere is the reference position: <REF_POS>"
WHOLE = torch.zeros(2, dtype=torch.bool)


def test_shares_and_mean_length():
    rates = CompletionRates()
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    rates.update([GOOD, "<think> no end <REF_POS>"], torch.tensor([[True], [True]]), mask, mask[:, 3])
    rates.update(["nothing"], torch.tensor([[False]]), mask[:1, :2], mask[0, 3:])
    scores = {name: float(value) for name, value in rates.compute().items()}
    assert scores == {"format_rate": 1 / 3, "token_rate": 2 / 3, "truncated_rate": 1 / 3, "completion_length": 9 / 3}


def test_one_of_several_tokens_is_enough():
    rates = CompletionRates()
    rates.update([GOOD, GOOD], torch.tensor([[False, True], [False, False]]), torch.ones(2, 3, dtype=torch.bool), WHOLE)
    assert float(rates.compute()["token_rate"]) == 0.5


def test_well_formed_means_as_many_tokens_as_are_asked_for():
    rates = CompletionRates()
    texts = [GOOD, GOOD + "<REF_POS>"]
    rates.update(texts, torch.tensor([[True, False], [True, True]]), torch.ones(2, 3, dtype=torch.bool), WHOLE)
    assert float(rates.compute()["format_rate"]) == 0.5


def test_without_completions_rates_are_nan():
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert all(math.isnan(value) for value in CompletionRates().compute().values())
