"""Time limits as SLURM writes them."""

from __future__ import annotations

from typing import Any

import pytest

from coprs_lightning.commands import UsageError
from coprs_lightning.slurm.times import minutes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (90, 90), ("90", 90), ("90:00", 90), ("89:01", 90), ("1:30:00", 90), ("01:29:30", 90), ("1-0", 1440),
        ("1-12:00:00", 2160), ("2-01:30", 2970), ("0:00:01", 1),
    ],
)  # fmt: skip
def test_time_limits_are_slurms(text: Any, expected: int) -> None:
    assert minutes(text, "--time") == expected


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "0", "00:00", "-5", "1.5"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--time '.*' is no time: give minutes"):
        minutes(text, "--time")
