"""A map over processes that keeps the order and never runs far ahead of the one who takes the results."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import TypeVar

from datamodules.convert.errors import BadSourceError

Job = TypeVar("Job")
Result = TypeVar("Result")

_AHEAD = 8
"""Results a worker may wait with: images in memory are bounded by workers × this."""


def ordered_map(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    """``map(function, jobs)`` in ``workers`` processes; the results come in the order of the jobs.

    Raises:
        BadSourceError: a worker process died.
    """
    if workers == 1:
        yield from map(function, jobs)
        return
    waiting: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(function, job))
                if len(waiting) >= workers * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise BadSourceError(
                f"one of the {workers} worker processes died, most often for want of memory. Use fewer --workers."
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def _start() -> None:
    import cv2

    cv2.setNumThreads(0)  # workers share the cores already
    parent = multiprocessing.parent_process()
    # a worker holds both ends of the queue it waits at, so it would wait for ever when its parent is killed
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess | None) -> None:
    if parent is not None:
        parent.join()
        os._exit(1)
