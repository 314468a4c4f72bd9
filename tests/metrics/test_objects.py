"""How many objects there are, told by confidences."""

from __future__ import annotations

import torch

from coprs_lightning.metrics import ObjectCounts


def test_as_many_slots_as_objects():
    counts = ObjectCounts()
    chosen = torch.tensor([[True, False, True], [False, False, False], [True, True, True], [True, True, False]])
    counts.update(chosen, torch.tensor([2, 0, 5, 1]))
    counts.update(chosen[:1], torch.tensor([3]))
    assert float(counts.compute()["count_accuracy"]) == 3 / 5


def test_nothing_without_examples():
    counts = ObjectCounts()
    counts.update(torch.zeros(0, 2, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    assert counts.compute() == {}
