"""Peak memory of one step of joint training with every saving, and without each of them.

    python -m tests.benchmarks.memory --shape small
    python -m tests.benchmarks.memory --shape qwen2_5_vl_3b --device cuda

Every line is a run of :mod:`tests.benchmarks.training_step` in a process of its own, so that nothing of another run is
held. Savings:

- shared prefix: the prompt is computed once for its completions in the update;
- gradient checkpointing: the policy's activations are recomputed;
- LoRA: adapters in place of full training, which needs gradients, moments and a copy of the policy as reference;
- offloaded copy: that copy lies in CPU memory (with LoRA there is none, so this line trains in full, too);
- micro-batches: completions go through the model two at a time;
- features in the batch: no image encoder in memory;
- chunked logits: a few completion tokens are projected to words at a time.

Two lines more: full training with every other saving is the line without LoRA; the last line saves nothing at all. A
line that runs out of memory says so. What ``coprs estimate`` tells of the same step stands beside it. On the CPU an
offloaded copy saves nothing, and shapes below a billion parameters show little but noise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.inputs import positive
from tests.benchmarks.measure import report
from tests.benchmarks.shapes import SHAPES

CHUNK = 128
WHOLE = 1_000_000

SAVINGS: dict[str, tuple[list[str], list[str]]] = {
    "shared prefix": (["--forward", "shared"], ["--forward", "separate"]),
    "gradient checkpointing": (["--gradient-checkpointing"], ["--no-gradient-checkpointing"]),
    "LoRA": (["--lora"], ["--no-lora"]),
    "offloaded copy": (["--offload-reference"], []),
    "micro-batches": (["--micro-batch-size", "2"], []),
    "features in the batch": ([], ["--encode"]),
    "chunked logits": (["--log-prob-chunk", str(CHUNK)], ["--log-prob-chunk", str(WHOLE)]),
}
"""Name → options with it, options without it."""

WITHOUT: dict[str, set[str]] = {
    **{name: {name} for name in SAVINGS},
    "offloaded copy": {"offloaded copy", "LoRA"},
    "any": set(SAVINGS),
}
"""Line → savings that it does without."""

COLUMNS = {
    "without": ("without", ""),
    "held_mib": ("held MiB", ".0f"),
    "peak_mib": ("step's peak above it, MiB", ".0f"),
    "total_mib": ("together", ".0f"),
    "ratio": ("times that of all savings", ".2f"),
    "estimate_mib": ("coprs estimate, MiB", ".0f"),
    "seconds": ("s a step", ".2f"),
}


def options_without(line: str | None) -> list[str]:
    """Options of ``training_step`` with every saving but those that a line does without."""
    left_out = set() if line is None else WITHOUT[line]
    return [word for key, (used, unused) in SAVINGS.items() for word in (unused if key in left_out else used)]


def run(line: str | None, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """One line of the table, and what the run tells about itself.

    Raises:
        RuntimeError: when the run fails of anything but memory.
    """
    words = ["--shape", options.shape, "--device", options.device, "--steps", str(options.steps)]
    command = [sys.executable, "-m", "tests.benchmarks.training_step", *words, *options_without(line)]
    done = subprocess.run([*command, "--rollout", "one-prefill"], capture_output=True, text=True, check=False)
    row: dict[str, Any] = {"without": line or "– (all savings)"}
    if done.returncode:
        if "out of memory" not in done.stderr.lower():
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        nothing = dict.fromkeys(("held_mib", "peak_mib", "total_mib", "estimate_mib", "seconds"))
        return {**row, **nothing, "out_of_memory": True}, {}
    told = json.loads(done.stdout.strip().splitlines()[-1])
    measured = told["rows"][0]
    held = max(0.0, measured["held_mib"] - told["held_before_mib"])  # the interpreter and its libraries are no matter
    return {
        **row,
        "held_mib": held,
        "peak_mib": measured["peak_mib"],
        "total_mib": held + measured["peak_mib"],
        "estimate_mib": sum(told["estimate_mib"].values()),
        "seconds": measured["seconds"],
        "out_of_memory": False,
    }, told


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--steps", type=positive, default=1)
    parser.add_argument("--without", nargs="*", choices=WITHOUT, default=list(WITHOUT), help="lines of the table")
    options = parser.parse_args(argv)
    first, told = run(None, options)
    rows = [first, *(run(line, options)[0] for line in options.without)]
    for row in rows:
        known = row["total_mib"] is not None and first["total_mib"] is not None
        row["ratio"] = row["total_mib"] / first["total_mib"] if known else None
    own = ("lora", "gradient_checkpointing", "micro_batch_size", "encode", "offload_reference", "log_prob_chunk")
    parameters = {key: value for key, value in told.get("parameters", {}).items() if key not in own}
    report({"benchmark": "memory", "machine": told.get("machine", {}), "parameters": parameters}, rows, COLUMNS)


if __name__ == "__main__":
    main()
