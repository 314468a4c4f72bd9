from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def wait(number: int) -> None:
    print("waits", flush=True)
    time.sleep(600)


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from datamodules.convert.ordered_map import ordered_map\n"
        "from tests.datamodules.convert.test_ordered_map import wait\n"
        "if __name__ == '__main__':\n"
        "    list(ordered_map(wait, range(2), 2))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert [parent.stdout.readline() for _ in range(2)] == [b"waits\n"] * 2
    parent.send_signal(signal.SIGKILL)
    parent.communicate(timeout=30)  # the pipe ends when none of them holds it any more
