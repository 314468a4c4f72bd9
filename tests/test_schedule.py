"""The learning-rate schedule."""

from __future__ import annotations

import itertools

import pytest
import torch

from coprs_lightning.schedule import one_cycle_factor


def factors(total: int, warmup: float, start: float, final: float) -> list[float]:
    options = {"warmup_fraction": warmup, "start_divisor": start, "final_divisor": final}
    return [one_cycle_factor(step, total, **options) for step in range(total)]


def test_the_papers_schedule_falls_from_the_base_rate_to_its_share() -> None:
    rates = factors(100, 0.0, 1.0, 6.67)
    assert rates[0] == 1.0
    assert rates[-1] == pytest.approx(1 / 6.67)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))


def test_warmup_rises_from_its_start_to_the_base_rate() -> None:
    rates = factors(100, 0.1, 10.0, 20.0)
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == 1.0
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.05)


def test_it_is_torchs_one_cycle_where_that_is_defined() -> None:
    # torch ends its warm-up at fraction · total - 1, so the same slope is one step earlier
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    total = 1001
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, pct_start=0.2, div_factor=10, final_div_factor=2, cycle_momentum=False
    )
    ours = factors(total, 0.2, 10.0, 20.0)
    for rate in ours:
        assert rate == pytest.approx(float(theirs.get_last_lr()[0]), abs=0.01)
        optimizer.step()
        if theirs.last_epoch < total - 1:
            theirs.step()


@pytest.mark.parametrize("total", [1, 2, 3, 20])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 1.0])
def test_runs_of_any_length_have_rates(total: int, warmup: float) -> None:
    assert all(0 < rate <= 1 for rate in factors(total, warmup, 10.0, 20.0))


def test_the_rate_stays_at_its_end() -> None:
    assert one_cycle_factor(99, 10, warmup_fraction=0.0, start_divisor=1.0, final_divisor=4.0) == pytest.approx(0.25)
