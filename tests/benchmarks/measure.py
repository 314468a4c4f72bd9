"""Measuring time and memory, and telling the results: what the benchmarks share."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

MIB = 2**20
Name = TypeVar("Name")


# -- time ------------------------------------------------------------------------------------------------------------


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU still has to do; a CPU is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """How long a call takes, and what it gives."""
    synchronise(device)
    start = time.perf_counter()
    result = call()
    synchronise(device)
    return time.perf_counter() - start, result


def alternate(
    calls: Mapping[Name, Callable[[], Any]], repetitions: int, device: torch.device
) -> dict[Name, list[tuple[float, Any]]]:
    """Time several calls in turn, so that a busy moment of the machine strikes all of them.

    Args:
        calls: by name; each must have run before, since first runs are slower.
        repetitions: timed runs of each.
        device: where they compute.

    Returns:
        seconds and result of every timed run, by name.
    """
    found: dict[Name, list[tuple[float, Any]]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            found[name].append(seconds_of(call, device))
    return found


def median_seconds(runs: Sequence[tuple[float, Any]]) -> float:
    """Median of what :func:`alternate` found for one call."""
    return statistics.median(seconds for seconds, _ in runs)


# -- memory ----------------------------------------------------------------------------------------------------------


def memory_method(device: torch.device) -> str:
    """What :func:`peak_bytes` reads: on a GPU the allocator; on Linux the process; elsewhere the autograd graph."""
    if device.type == "cuda":
        return "max_memory_allocated"
    return "VmHWM" if _reset_high_water() else "saved_for_backward"


def peak_bytes(call: Callable[[], Any], device: torch.device) -> tuple[int, int]:
    """Memory that a call takes at its peak.

    Returns:
        bytes held before the call (0 where only the autograd graph can be measured), and the peak above them.
    """
    gc.collect()
    if device.type == "cuda":
        synchronise(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return before, torch.cuda.max_memory_allocated(device) - before
    if not _reset_high_water():
        return 0, saved_bytes(call)
    before = _resident("VmRSS")
    call()
    return before, max(0, _resident("VmHWM") - before)


def saved_bytes(call: Callable[[], Any]) -> int:
    """Bytes that the graphs of a call keep for their backward passes; parameters are not counted."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()  # the same storage may be saved many times
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    return sum(sizes.values())


def _reset_high_water() -> bool:
    """Forget the highest memory use so far, if the system lets us."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, else the next call would take it unseen
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (AttributeError, OSError, TypeError):
        return False
    return True


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)[0]) * 1024


# -- results ---------------------------------------------------------------------------------------------------------


def machine(device: torch.device) -> dict[str, Any]:
    """What the results were measured on."""
    import transformers

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _cpu_name() -> str:
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        names = []
    return str(names[0]) if names else platform.processor() or platform.machine()


def report(result: dict[str, Any], rows: Sequence[dict[str, Any]], columns: Mapping[str, tuple[str, str]]) -> None:
    """Print the machine, the parameters, a Markdown table and, as the last line, everything as JSON.

    Args:
        result: with ``machine`` and ``parameters``; what else it holds is printed below the table.
        rows: of the table; they are ``result["rows"]`` too.
        columns: heading and format by key.
    """
    described = result["machine"]
    print(", ".join(f"{key} {value}" for key, value in described.items()))
    print(", ".join(f"{key} {value}" for key, value in result["parameters"].items()))
    print()
    print("| " + " | ".join(heading for heading, _ in columns.values()) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        cells = ("–" if row[key] is None else format(row[key], form) for key, (_, form) in columns.items())
        print("| " + " | ".join(cells) + " |")
    print()
    for key, value in result.items():
        if key not in ("machine", "parameters"):
            print(f"{key}: {value}")
    print(json.dumps({**result, "rows": list(rows)}))
