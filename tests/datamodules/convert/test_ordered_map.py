from __future__ import annotations

import os
import time

import pytest

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.ordered_map import ordered_map


def slow_first(number: int) -> int:
    time.sleep(0.2 if number == 0 else 0)
    return number * number


def give_problem(number: int) -> BadItemError:
    return BadItemError("reason", f"detail {number}")


def die(number: int) -> int:
    os._exit(3)


@pytest.mark.parametrize("workers", [1, 2])
def test_order(workers: int) -> None:
    assert list(ordered_map(slow_first, range(40), workers)) == [number * number for number in range(40)]


def test_problems_travel() -> None:
    problem = next(iter(ordered_map(give_problem, [7], 2)))
    assert (problem.reason, problem.detail, str(problem)) == ("reason", "detail 7", "reason: detail 7")


def test_the_jobs_are_not_read_far_ahead() -> None:
    taken = []

    def jobs():
        for number in range(1000):
            taken.append(number)
            yield number

    results = ordered_map(slow_first, jobs(), 2)
    next(results)
    assert len(taken) <= 16
    results.close()


def test_a_worker_that_dies() -> None:
    with pytest.raises(BadSourceError, match=r"one of the 2 worker processes died.*fewer --workers"):
        list(ordered_map(die, range(3), 2))
