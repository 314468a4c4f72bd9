"""How much a prompt shared by its completions saves in the update.

    python -m tests.benchmarks.group_forward

The update of a group of G completions of R tokens over a prompt of P tokens (an image among them): forward pass,
log-probabilities, and the backward pass of a loss on them and on the concentration token's state. Once in packed
sequences that hold the prompt once (``shared_prefix: true``), once in G separate ones. Time is the median of runs in
turn; memory is the peak above weights and gradients, which exist before.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from coprs_lightning.aggregators import LastTokenAggregator
from coprs_lightning.policies import HFPolicy
from coprs_lightning.structures import Completions, Prompts
from tests.benchmarks.inputs import build_policy, completions_of, model_options, parameters_of, prompts_of, shape
from tests.benchmarks.measure import MIB, alternate, machine, median_seconds, memory_method, peak_bytes, report

GRID = [(prompt, completion, group) for prompt in (64, 256, 512) for completion in (32, 64) for group in (4, 8)]
GRID.append((64, 256, 8))  # against it: a short prompt, and long completions that all lie in one attention matrix
HEADLINE = (256, 64, 8)
COLUMNS = {
    "prompt": ("P", ""),
    "completion": ("R", ""),
    "group": ("G", ""),
    "separate_seconds": ("separate s", ".3f"),
    "shared_seconds": ("shared s", ".3f"),
    "speedup": ("times faster", ".2f"),
    "separate_mib": ("separate MiB", ".0f"),
    "shared_mib": ("shared MiB", ".0f"),
    "memory_ratio": ("times less memory", ".2f"),
    "log_prob_difference": ("difference of log-probs", ".1e"),
    "gradient_difference": ("difference of gradients", ".1e"),
}


def update(policy: HFPolicy, prompts: Prompts, completions: Completions, shared: bool) -> Tensor:
    """One update's forward and backward pass; gradients are left in the policy, log-probabilities returned."""
    policy.shared_prefix = shared
    policy.zero_grad(set_to_none=False)
    output = policy(prompts, completions)
    tokens = policy.log_probs(output, completions).log_probs
    state = LastTokenAggregator(hidden_size=policy.hidden_size)(output).query[:, 0].float()
    generator = torch.Generator().manual_seed(5)  # every token and every feature pulls in its own direction
    pull = torch.randn(tokens.shape, generator=generator).to(tokens)
    direction = torch.randn(state.shape, generator=generator).to(state)
    ((pull * tokens).mean() + (direction * state).mean()).backward()
    return tokens.detach()


def gradient(policy: HFPolicy) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([p.grad.flatten().float() for p in policy.parameters() if p.grad is not None])


def compare(policy: HFPolicy, size: tuple[int, int, int], options: argparse.Namespace) -> dict[str, Any]:
    """A row of the table."""
    prompt, completion, group = size
    prompts = prompts_of(policy, prompt, options.prompts)
    completions = completions_of(policy, completion, options.prompts * group)
    found = [(update(policy, prompts, completions, shared), gradient(policy)) for shared in (False, True)]
    (log_probs, gradients), (shared_log_probs, shared_gradients) = found
    row: dict[str, Any] = {
        "prompt": prompt,
        "completion": completion,
        "group": group,
        "log_prob_difference": float(((shared_log_probs - log_probs) / log_probs).abs().max()),
        "gradient_difference": float((shared_gradients - gradients).norm() / gradients.norm()),
    }
    del found, log_probs, gradients, shared_log_probs, shared_gradients
    calls = {
        name: lambda shared=shared: update(policy, prompts, completions, shared)
        for name, shared in (("separate", False), ("shared", True))
    }
    for name, runs in alternate(calls, options.repetitions, policy.device).items():
        row[f"{name}_seconds"] = median_seconds(runs)
        row[f"{name}_mib"] = peak_bytes(calls[name], policy.device)[1] / MIB
    row["speedup"] = row["separate_seconds"] / row["shared_seconds"]
    row["memory_ratio"] = row["separate_mib"] / max(row["shared_mib"], 1 / MIB)
    return row


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model_options(parser)
    parser.add_argument("--prompts", type=int, default=1, help="prompts at a time, each with its group")
    parser.add_argument("--shapes", type=shape, nargs="+", default=GRID, metavar="P,R,G", help="rows of the table")
    options = parser.parse_args(argv)
    policy = build_policy(options).train()
    rows = [compare(policy, size, options) for size in options.shapes]
    headline = rows[options.shapes.index(HEADLINE)] if HEADLINE in options.shapes else rows[-1]
    result = {
        "benchmark": "group_forward",
        "machine": machine(policy.device),
        "parameters": {**parameters_of(options), "memory": memory_method(policy.device)},
        "speedup_of": [headline[key] for key in ("prompt", "completion", "group")],
        "speedup": headline["speedup"],
        "largest_log_prob_difference": max(row["log_prob_difference"] for row in rows),
        "largest_gradient_difference": max(row["gradient_difference"] for row in rows),
    }
    report(result, rows, COLUMNS)


if __name__ == "__main__":
    main()
