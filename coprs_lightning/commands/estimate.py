"""`coprs estimate`: what a config needs, before anyone queues for a GPU."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from coprs_lightning.commands import CommandError

if TYPE_CHECKING:
    from coprs_lightning.cli_lightning import CoprsCLI
    from coprs_lightning.estimate import Load, Sizes

HELP = "parameters and memory of a config, before anything is loaded; takes the options of `coprs fit`"
PASSES_ON = True
"""Words that are not its own are those of `coprs fit`."""

GPUS = (24, 40, 80, 141)
_QUANTISED = {"4bit": 0.53, "8bit": 1.01}  # bytes a weight, scales included


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See :mod:`coprs_lightning.commands`."""
    parser.usage = (
        "coprs estimate --config FILE [--config OVERLAY …] [--OPTION VALUE …] [--devices N] [--verbose | --json]"
    )
    parser.add_argument("--devices", type=int, metavar="N", help="devices in all; by default the trainer's")
    parser.add_argument(
        "--prompt-tokens", type=int, metavar="P", help="longest prompt, image included; by default the policy's limit"
    )
    parser.add_argument(
        "--completion-tokens", type=int, metavar="R", help="longest completion; by default the limit of generation"
    )
    parser.add_argument("--precision", help="as trainer.precision, for instance bf16-mixed; by default the trainer's")
    parser.add_argument("--verbose", action="store_true", help="say what every line is computed from")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(args: argparse.Namespace) -> int:
    """See :mod:`coprs_lightning.commands`.

    Raises:
        CommandError: for numbers below 1.
    """
    if args.precision is not None:
        args.words += ["--trainer.precision", args.precision]
    for name in ("devices", "prompt_tokens", "completion_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise CommandError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")
    from coprs_lightning.cli_lightning import look
    from coprs_lightning.estimate import estimate, measure, pass_bytes, with_precision

    cli = look(args.words)
    trainer = cli.config.fit.trainer
    devices = args.devices or _devices(trainer)
    sizes = with_precision(measure(cli.model.model), str(trainer.precision))
    load = load_of(cli, args.prompt_tokens, args.completion_tokens)
    found = estimate(sizes, load, devices)
    if args.json:
        either = {name: pass_bytes(sizes, load, name == "with") for name in ("with", "without")}
        parts = [vars(part) for part in sizes.parts]
        told = {"parameters": parts, "load": vars(load), "bytes": found, "activations_by_checkpointing": either}
        print(json.dumps(told))
    else:
        _print(sizes, load, found, verbose=args.verbose)
    return 0


def load_of(cli: CoprsCLI, prompt_tokens: int | None, completion_tokens: int | None) -> Load:
    """What one device works on in a step, by the config.

    Args:
        cli: built without weights.
        prompt_tokens: in place of the policy's limit.
        completion_tokens: in place of the limit of generation.
    """
    from coprs_lightning.estimate import Load
    from coprs_lightning.objectives import GRPOObjective
    from coprs_lightning.rl.references import FrozenCopyReference

    module, policy = cli.model, cli.model.model.policy
    objective = module.objective
    load = Load(
        prompts=int(getattr(cli.datamodule, "batch_size", 1)),
        group=1,
        prompt_tokens=prompt_tokens or int(getattr(policy, "max_prompt_tokens", 1024)),
        completion_tokens=completion_tokens or module.generation.max_new_tokens,
        shared_prefix=bool(getattr(policy, "shared_prefix", False)),
        logits_chunk=int(getattr(policy, "log_prob_chunk", 2048)),
        frozen_weight_bytes=_QUANTISED.get(str(policy.spec["init_args"].get("quantization"))),
    )
    if not isinstance(objective, GRPOObjective):
        # the cross-entropy of written completions takes all their logits at once
        return replace(load, logits_chunk=load.prompts * load.completion_tokens)
    automatic = objective.reference is None and policy.adapters is None
    copied = isinstance(objective.reference, FrozenCopyReference)
    offloaded = isinstance(objective.reference, FrozenCopyReference) and objective.reference.offload
    return replace(
        load,
        group=objective.num_generations,
        completion_tokens=completion_tokens or objective.rollout.max_new_tokens,
        micro_batch=objective.micro_batch_size,
        reference_copy=objective.beta != 0 and (automatic or (copied and not offloaded)),
        reference_offloaded=objective.beta != 0 and offloaded,
        samples=True,
    )


def _devices(trainer: Any) -> int:
    devices = trainer.devices
    count = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 1
    return max(1, count) * int(trainer.num_nodes or 1)


def _print(sizes: Sizes, load: Load, found: dict[str, dict[str, int]], *, verbose: bool) -> None:
    from rich.box import MARKDOWN
    from rich.console import Console
    from rich.table import Table

    from coprs_lightning.estimate import FORMULAS, GIB, pass_bytes
    from coprs_lightning.estimate.memory import RESERVE

    console = Console()
    parameters = Table("part", *(_right(name) for name in ("parameters", "trainable", "GiB")), box=MARKDOWN)
    for part in sizes.parts:
        parameters.add_row(part.name, f"{part.total:,}", f"{part.trainable:,}", f"{part.bytes / GIB:.2f}")
    total, trained = sum(p.total for p in sizes.parts), sum(p.trainable for p in sizes.parts)
    parameters.add_row("total", f"{total:,}", f"{trained:,}", f"{sum(p.bytes for p in sizes.parts) / GIB:.2f}")
    console.print(parameters)
    memory = Table("GiB a device", *(_right(name) for name in found), box=MARKDOWN)
    names = dict.fromkeys(name for items in found.values() for name in items)
    for name in names:
        memory.add_row(name, *(f"{items[name] / GIB:.2f}" if name in items else "" for items in found.values()))
    sums = [sum(items.values()) for items in found.values()]
    memory.add_row("total", *(f"{value / GIB:.2f}" for value in sums))
    for size in GPUS:
        fits = ["yes" if value <= (1 - RESERVE) * size * GIB else "no" for value in sums]
        memory.add_row(f"fits {size} GB", *fits)
    console.print(memory)
    console.print(
        f"A device's step: {load.prompts} prompts of {load.prompt_tokens} tokens, {load.group} completions each of "
        f"{load.completion_tokens}, {load.completions} at a time with gradients. Both lengths are limits: shorter ones "
        f"need less. {RESERVE:.0%} of a GPU is left for its own needs.",
        highlight=False,
    )
    if sizes.language is None:
        console.print("The policy is no transformers model, so its activations and caches are not counted.")
    else:
        less, more = (pass_bytes(sizes, load, used) / GIB for used in (True, False))
        now = "on" if sizes.checkpointing else "off"
        console.print(
            f"Gradient checkpointing is {now}: activations take {less:.2f} GiB with it, {more:.2f} without.",
            highlight=False,
        )
    if verbose:
        for name in names:
            console.print(f"- {name}: {FORMULAS[name]}", highlight=False, markup=False)
    else:
        console.print("--verbose tells the formulas.", highlight=False)


def _right(name: str) -> Any:
    from rich.table import Column

    return Column(name, justify="right")
