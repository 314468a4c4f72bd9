"""Peak memory of one step of joint training with every saving, and without each of them.

    python -m tests.benchmarks.memory --shape small
    python -m tests.benchmarks.memory --shape qwen2_5_vl_3b --device cuda

Every line is a run of :mod:`tests.benchmarks.training_step` in a process of its own, so that nothing of another run is
held. Savings: the prompt shared by its completions in the update, activations recomputed, adapters in place of full
training (with the reference policy's frozen copy), and completions that go through the model two at a time. A line
that runs out of memory says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.measure import report
from tests.benchmarks.shapes import SHAPES

SAVINGS: dict[str, tuple[list[str], list[str]]] = {
    "shared prefix": (["--forward", "shared"], ["--forward", "separate"]),
    "gradient checkpointing": (["--gradient-checkpointing"], ["--no-gradient-checkpointing"]),
    "LoRA": (["--lora"], ["--no-lora"]),
    "micro-batches": (["--micro-batch-size", "2"], []),
}
"""Name → options with it, options without it."""

COLUMNS = {
    "without": ("without", ""),
    "held_mib": ("held MiB", ".0f"),
    "peak_mib": ("step's peak above it, MiB", ".0f"),
    "total_mib": ("together", ".0f"),
    "ratio": ("times that of all savings", ".2f"),
    "seconds": ("s a step", ".2f"),
}


def options_without(name: str | None) -> list[str]:
    """Options of ``training_step`` with every saving but one."""
    return [word for key, (used, unused) in SAVINGS.items() for word in (unused if key == name else used)]


def run(name: str | None, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """One line of the table, and what the run tells about itself."""
    words = ["--shape", options.shape, "--device", options.device, "--steps", str(options.steps)]
    command = [sys.executable, "-m", "tests.benchmarks.training_step", *words, *options_without(name)]
    done = subprocess.run([*command, "--rollout", "one-prefill"], capture_output=True, text=True, check=False)
    row: dict[str, Any] = {"without": name or "– (all savings)"}
    if done.returncode:
        if "out of memory" not in done.stderr.lower():
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        nothing = dict.fromkeys(("held_mib", "peak_mib", "total_mib", "seconds"))
        return {**row, **nothing, "out_of_memory": True}, {}
    told = json.loads(done.stdout.strip().splitlines()[-1])
    measured = told["rows"][0]
    found = {key: measured[key] for key in ("held_mib", "peak_mib", "seconds")}
    return {**row, **found, "total_mib": found["held_mib"] + found["peak_mib"], "out_of_memory": False}, told


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--without", nargs="*", choices=SAVINGS, default=list(SAVINGS), help="savings to leave out")
    options = parser.parse_args(argv)
    first, told = run(None, options)
    rows = [first, *(run(name, options)[0] for name in options.without)]
    for row in rows:
        known = row["total_mib"] is not None and first["total_mib"] is not None
        row["ratio"] = row["total_mib"] / first["total_mib"] if known else None
    result = {"benchmark": "memory", "machine": told.get("machine", {}), "parameters": told.get("parameters", {})}
    report(result, rows, COLUMNS)


if __name__ == "__main__":
    main()
