"""Memory of loader workers over an epoch, from what Linux tells about processes."""

from __future__ import annotations

import multiprocessing
import re
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_PRIVATE = re.compile(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", re.MULTILINE)


def private_bytes(process: int) -> int | None:
    """Bytes that no other process shares (USS), or ``None`` where that cannot be known."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    return 1024 * sum(int(number) for number in _PRIVATE.findall(text))


def children() -> set[int | None]:
    """The processes that this one has started and that still run."""
    return {process.pid for process in multiprocessing.active_children()}


def memory_over(call: Callable[[], Any], period: float, *, apart_from: set[int | None]) -> list[list[int]]:
    """Run a call and sample the memory of this process's children.

    Args:
        call: what to wait for.
        period: seconds between samples.
        apart_from: processes that are not sampled.

    Returns:
        samples in bytes, for each process that was met.
    """
    found: dict[int, list[int]] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for process in children() - apart_from:
                if process is not None and (size := private_bytes(process)) is not None:
                    found.setdefault(process, []).append(size)
            time.sleep(period)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return list(found.values())


def flatness(samples: Sequence[Sequence[int]]) -> dict[str, float] | None:
    """How memory goes over an epoch, in MiB a worker, the worst of each over the workers.

    ``first_quarter`` and ``last_quarter`` are means of the worker whose memory grew most, ``growth`` is their ratio
    less 1, ``peak`` the highest sample of all.
    """
    usable = [row for row in samples if len(row) >= 8]
    if not usable:
        return None
    quarters = [(statistics.fmean(row[: len(row) // 4]), statistics.fmean(row[-(len(row) // 4) :])) for row in usable]
    first, last = max(quarters, key=lambda pair: pair[1] / pair[0])
    mib = 2**20
    return {
        "samples": min(len(row) for row in usable),
        "first_quarter": round(first / mib, 1),
        "last_quarter": round(last / mib, 1),
        "growth": round(last / first - 1, 4),
        "peak": round(max(max(row) for row in usable) / mib, 1),
    }
