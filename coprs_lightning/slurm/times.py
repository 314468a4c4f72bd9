"""Time limits as SLURM writes them."""

from __future__ import annotations

import math
import re
from typing import Any

from coprs_lightning.commands import UsageError


def minutes(text: Any, option: str) -> int:
    """A time limit of SLURM's (``90``, ``1:30:00``, ``1-12``, ``1-12:00:00``) in minutes, rounded up.

    Args:
        text: the limit.
        option: what it was given by, for the message.

    Raises:
        UsageError: for anything else.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(text))
    if match is None or not any(int(group or 0) for group in match.groups()):
        raise UsageError(
            f"{option} {text!r} is no time: give minutes (90), HH:MM:SS or DAYS-HH:MM:SS, of more than nothing."
        )
    days, first, second, third = (int(group or 0) for group in match.groups())
    if match[1] is not None:  # days-hours[:minutes[:seconds]]
        return days * 1440 + first * 60 + second + math.ceil(third / 60)
    if match[4] is not None:
        return first * 60 + second + math.ceil(third / 60)
    return first + math.ceil(second / 60)  # minutes[:seconds]
