"""Token weights: what they sum to, and that a batch may be split; values against loops in tests/parity/test_grpo.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coprs_lightning.rl.weights import FixedLengthMean, GroupTokenMean, SequenceMean, TokenWeights
from coprs_lightning.spec import build

ALL = [GroupTokenMean(), SequenceMean(), FixedLengthMean(length=9)]
IDS = [type(weights).__name__ for weights in ALL]


def case() -> Tensor:
    """(3, 4, 6) mask of completions of 1 to 6 tokens."""
    lengths = torch.tensor([[6, 1, 3, 2], [4, 4, 5, 1], [2, 2, 2, 2]])
    return torch.arange(6) < lengths[..., None]


def test_sums() -> None:
    mask = case()
    assert float(GroupTokenMean()(mask).sum()) == pytest.approx(1)
    assert float(SequenceMean()(mask).sum()) == pytest.approx(1)
    assert float(FixedLengthMean(length=9)(mask).sum()) == pytest.approx(int(mask.sum()) / (3 * 4 * 9))
    torch.testing.assert_close(GroupTokenMean()(mask).sum((1, 2)), torch.full((3,), 1 / 3))
    torch.testing.assert_close(SequenceMean()(mask).sum(2), torch.full((3, 4), 1 / 12))


@pytest.mark.parametrize("weigh", ALL, ids=IDS)
def test_padding_has_no_weight_and_changes_nothing(weigh: TokenWeights) -> None:
    mask = case()
    weights = weigh(mask)
    assert weights.dtype == torch.float32
    assert ((weights > 0) == mask).all()
    longer = torch.cat([mask, torch.zeros(3, 4, 5, dtype=torch.bool)], dim=2)
    assert torch.equal(weigh(longer)[..., :6], weights)


@pytest.mark.parametrize("weigh", ALL, ids=IDS)
def test_the_order_of_the_group_does_not_matter(weigh: TokenWeights) -> None:
    mask, order = case(), torch.randperm(4)
    torch.testing.assert_close(weigh(mask[:, order]), weigh(mask)[:, order])


@pytest.mark.parametrize("weigh", ALL, ids=IDS)
def test_a_batch_may_be_split_between_prompts(weigh: TokenWeights) -> None:
    mask = case()
    split = torch.cat([weigh(mask[i : i + 1]) for i in range(3)]) / 3
    torch.testing.assert_close(split, weigh(mask))


@pytest.mark.parametrize("weigh", ALL, ids=IDS)
def test_rows_without_tokens_count_nothing(weigh: TokenWeights) -> None:
    mask = case()
    mask[0, 2] = False
    mask[1] = False
    weights = weigh(mask)
    assert weights.isfinite().all()
    assert (weights[~mask] == 0).all()
    assert (weights[mask] > 0).all()
    assert (weigh(torch.zeros(2, 2, 0, dtype=torch.bool)).sum() == 0).item()


@pytest.mark.parametrize("weigh", ALL, ids=IDS)
def test_specs_rebuild(weigh: TokenWeights) -> None:
    assert type(build(weigh.spec)) is type(weigh)
    assert build(weigh.spec).spec == weigh.spec


def test_who_gains_from_length() -> None:
    mask = torch.tensor([[[True, False, False, False], [True, True, True, True]]])
    group, sequence, fixed = (weigh(mask)[0] for weigh in ALL)
    assert group[0, 0] == group[1, 0]
    assert sequence[0, 0] == 4 * sequence[1, 0]
    assert fixed[0, 0] == fixed[1, 0] == pytest.approx(1 / 18)


@pytest.mark.parametrize("length", [0, -2])
def test_the_length_is_positive(length: int) -> None:
    with pytest.raises(ValueError, match=rf"FixedLengthMean\.length must be ≥ 1, got {length}"):
        FixedLengthMean(length=length)
