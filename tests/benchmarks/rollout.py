"""How much faster completions are sampled when image and prompt are encoded once.

    python -m tests.benchmarks.rollout

G completions of up to R tokens of a prompt of P tokens (an image among them), by ``Policy.sample`` (one prefill, one
key–value cache for the group) and by the ``generate`` of transformers with ``num_return_sequences`` (the prompt once a
completion). Rate is real tokens written a second; time is the median of runs in turn.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad

from coprs_lightning.policies import HFPolicy
from coprs_lightning.structures import Completions, Prompts
from tests.benchmarks.inputs import build_policy, model_options, parameters_of, prompts_of, shape
from tests.benchmarks.measure import alternate, machine, median_seconds, report

HEADLINE = (256, 32, 8)
GRID = [HEADLINE, (256, 128, 8), (256, 32, 4), (256, 32, 16), (64, 32, 8), (512, 32, 8), (64, 256, 8)]
COLUMNS = {
    "prompt": ("P", ""),
    "completion": ("R", ""),
    "group": ("G", ""),
    "generate_seconds": ("generate s", ".3f"),
    "sample_seconds": ("one prefill s", ".3f"),
    "generate_rate": ("generate tokens/s", ".0f"),
    "sample_rate": ("one prefill tokens/s", ".0f"),
    "speedup": ("times faster", ".2f"),
}


def write(policy: HFPolicy, engine: str, prompts: Prompts, size: tuple[int, int, int], temperature: float) -> Any:
    """Completions by ``sample`` or ``generate``."""
    _, completion, group = size
    return getattr(policy, engine)(
        prompts, num_generations=group, max_new_tokens=completion, temperature=temperature, top_p=1.0
    )


def compare(policy: HFPolicy, size: tuple[int, int, int], options: argparse.Namespace) -> dict[str, Any]:
    """A row of the table."""
    prompts = prompts_of(policy, size[0], options.prompts)
    torch.manual_seed(0)
    calls = {name: lambda name=name: write(policy, name, prompts, size, 1.0) for name in ("generate", "sample")}
    for call in calls.values():
        call()
    row: dict[str, Any] = dict(zip(("prompt", "completion", "group"), size, strict=True))
    for name, runs in alternate(calls, options.repetitions, policy.device).items():
        row[f"{name}_seconds"] = median_seconds(runs)
        row[f"{name}_rate"] = statistics.median(int(written.mask.sum()) / seconds for seconds, written in runs)
    row["speedup"] = row["sample_rate"] / row["generate_rate"]
    return row


def same(mine: Completions, theirs: Completions) -> bool:
    """Whether two rollouts hold the same tokens, whatever padding follows them."""
    width = max(mine.ids.shape[1], theirs.ids.shape[1])
    ids, masks = (
        [pad(tensor, (0, width - tensor.shape[1])) for tensor in pair]
        for pair in ((mine.ids, theirs.ids), (mine.mask, theirs.mask))
    )
    return torch.equal(*masks) and torch.equal(ids[0][masks[0]], ids[1][masks[0]])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model_options(parser)
    parser.add_argument("--prompts", type=int, default=1, help="prompts at a time, each with its group")
    parser.add_argument("--shapes", type=shape, nargs="+", default=GRID, metavar="P,R,G", help="rows of the table")
    options = parser.parse_args(argv)
    policy = build_policy(options).eval()
    rows = [compare(policy, size, options) for size in options.shapes]
    headline = options.shapes.index(HEADLINE) if HEADLINE in options.shapes else 0
    size = options.shapes[headline]
    prompts = prompts_of(policy, size[0], options.prompts)
    greedy = [write(policy, name, prompts, size, 0.0) for name in ("sample", "generate")]
    result = {
        "benchmark": "rollout",
        "machine": machine(policy.device),
        "parameters": parameters_of(options),
        "speedup_of": list(size),
        "speedup": rows[headline]["speedup"],
        "greedy_identical": same(*greedy),
    }
    report(result, rows, COLUMNS)


if __name__ == "__main__":
    main()
