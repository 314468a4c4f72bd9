"""`coprs evaluate`: every number that is reported about a checkpoint, on whole splits, in both units."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coprs_lightning.cli_errors import note, rank
from coprs_lightning.commands import CommandError

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from coprs_lightning.checkpoints.loading import Opened
    from coprs_lightning.evaluation.plan import Plan
    from coprs_lightning.evaluation.progress import Progress
    from coprs_lightning.evaluation.running import Settings

HELP = "evaluate a checkpoint on whole splits: benchmark tables with intervals, every example, panels"

_BATCH_SIZE = 8
_UNITS = ("target", "expression")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See :mod:`coprs_lightning.commands`."""
    what = parser.add_argument_group("what")
    what.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="folder of a run or of `coprs export`, a .ckpt file, or an id on the Hugging Face hub",
    )
    what.add_argument("--which", choices=("best", "last"), default="best", help="which checkpoint of a run")
    what.add_argument("--sweep", action="store_true", help="every checkpoint of a run, and the curve of the scores")
    what.add_argument(
        "--config",
        metavar="FILE",
        help="splits to evaluate on, such as data/benchmarks.yaml; by default the run's own validation and test splits",
    )
    what.add_argument("--splits", nargs="+", metavar="NAME", help="only these of them")
    what.add_argument(
        "--units",
        nargs="+",
        choices=_UNITS,
        default=list(_UNITS),
        help="what one example is: a target asked about once, by its first expression (the paper's released code), or "
        "every expression by itself (LISA, LENS)",
    )
    what.add_argument("--limit-examples", type=int, metavar="N", help="only so many examples of each split; marked")
    what.add_argument(
        "--max-bad-fraction",
        type=float,
        metavar="SHARE",
        default=0.0,
        help="share of a split's images that may be unusable; they are left out, counted and named",
    )
    where = parser.add_argument_group("results")
    where.add_argument("--output", metavar="DIR", help="folder for the results; by default `evaluation` in the run")
    where.add_argument("--panels", type=int, metavar="N", default=4, help="best, worst and random answers to draw")
    where.add_argument("--parquet", action="store_true", help="write examples.parquet instead of examples.jsonl")
    where.add_argument("--seed", type=int, default=0, help="of the bootstrap and of the random panels")
    where.add_argument("--resamples", type=int, metavar="N", default=1000, help="of the bootstrap")
    how = parser.add_argument_group("how")
    how.add_argument("--batch-size", type=int, metavar="N", help="examples at a time; by default the run's or config's")
    how.add_argument("--max-new-tokens", type=int, metavar="N", help="longest completion; by default the checkpoint's")
    how.add_argument("--num-workers", type=int, metavar="N", help="loader processes for each device")
    how.add_argument("--accelerator", default="auto", help="auto, cpu, gpu, mps …")
    how.add_argument("--devices", type=int, metavar="N", default=1, help="processes, each on a device of its own")
    how.add_argument("--precision", help="as trainer.precision; by default the checkpoint's own types")


def run(args: argparse.Namespace) -> int:
    """See :mod:`coprs_lightning.commands`.

    Raises:
        CommandError: for a checkpoint or data that cannot be used, or options that do not fit.
    """
    _check(args)
    if args.sweep:
        _sweep(args)
        return 0
    from coprs_lightning.checkpoints.loading import open_model
    from coprs_lightning.evaluation.checkpoint import checksum
    from coprs_lightning.evaluation.progress import progress
    from coprs_lightning.evaluation.running import make_trainer, passes

    opened = open_model(args.checkpoint, prefer=args.which)
    if opened.kind:
        note(f"using the {opened.kind} checkpoint of {args.checkpoint}: {opened.path}")
    output = _output(args, opened.path, bool(opened.header))
    plan = _plan(args, opened.header, str(opened.path))
    settings = _settings(args, plan, opened.model.max_new_tokens)
    trainer = make_trainer(accelerator=args.accelerator, devices=args.devices, precision=args.precision, folder=output)
    with progress(passes(plan, settings)) as shown:
        content = _evaluate(args, opened, checksum(opened.path), plan, settings, trainer, output, shown)
    _tell(content, output)
    return 0


def _check(args: argparse.Namespace) -> None:
    numbers = {
        "--limit-examples": (args.limit_examples, 1),
        "--batch-size": (args.batch_size, 1),
        "--max-new-tokens": (args.max_new_tokens, 1),
        "--num-workers": (args.num_workers, 0),
        "--devices": (args.devices, 1),
        "--panels": (args.panels, 0),
        "--seed": (args.seed, 0),
        "--resamples": (args.resamples, 1),
    }
    for option, (value, least) in numbers.items():
        if value is not None and value < least:
            raise CommandError(f"{option} must be at least {least}, got {value}.")
    if not 0 <= args.max_bad_fraction < 1:
        raise CommandError(f"--max-bad-fraction must be in [0, 1), got {args.max_bad_fraction}.")
    if args.output is not None and Path(args.output).exists() and not Path(args.output).is_dir():
        raise CommandError(f"--output {args.output} is a file. Name a folder.")
    if args.sweep and not Path(args.checkpoint).is_dir():
        raise CommandError(f"--sweep evaluates every checkpoint of a run, and {args.checkpoint} is no folder of one.")


def _output(args: argparse.Namespace, checkpoint: Path, of_run: bool) -> Path:
    from coprs_lightning.checkpoints.records import run_of

    if args.output is not None:
        return Path(args.output)
    if not of_run:
        raise CommandError(f"--output is missing: {args.checkpoint} is no run whose folder could take the results.")
    return run_of(checkpoint) / "evaluation" / ("sweep" if args.sweep else "")


def _plan(args: argparse.Namespace, header: dict[str, Any], where: str) -> Plan:
    from coprs_lightning.cli_configs import find_config
    from coprs_lightning.evaluation.plan import check_reader, plan_of_config, plan_of_run
    from coprs_lightning.module import DATA_SPEC_KEY

    if args.config is None:
        plan = plan_of_run(header.get(DATA_SPEC_KEY), where).only(args.splits)
    else:
        plan = plan_of_config(find_config(args.config), args.splits)
    check_reader(plan.data)
    return plan


def _settings(args: argparse.Namespace, plan: Plan, max_new_tokens: int) -> Settings:
    from coprs_lightning.evaluation.plan import UNITS
    from coprs_lightning.evaluation.running import Settings

    workers = args.num_workers if args.num_workers is not None else plan.num_workers
    return Settings(
        units=tuple(unit for unit in UNITS if unit in args.units),
        batch_size=args.batch_size or plan.batch_size or _BATCH_SIZE,
        max_new_tokens=args.max_new_tokens or max_new_tokens,
        num_workers=workers or 0,
        limit_examples=args.limit_examples,
        max_bad_fraction=args.max_bad_fraction,
        panels=args.panels,
        seed=args.seed,
        resamples=args.resamples,
    )


def _evaluate(
    args: argparse.Namespace,
    opened: Opened,
    sha256: str,
    plan: Plan,
    settings: Settings,
    trainer: pl.Trainer,
    output: Path,
    shown: Progress,
) -> dict[str, Any]:
    """Evaluate one checkpoint; the first process writes its results."""
    from callbacks.files import plain
    from coprs_lightning.evaluation.checkpoint import describe, provenance
    from coprs_lightning.evaluation.results import FORMAT, split_results
    from coprs_lightning.evaluation.running import run_splits
    from coprs_lightning.evaluation.writing import write_results

    started = datetime.now(timezone.utc)
    runs = list(run_splits(opened.model, plan, settings, trainer, shown.advance))
    if not trainer.is_global_zero:
        return {}
    content = {
        "format": FORMAT,
        "checkpoint": describe(opened, sha256),
        "settings": _told(args, settings),
        "splits": [split_results(one, settings) for one in runs],
        "machine": {
            "device": str(trainer.strategy.root_device),
            "processes": trainer.world_size,
            "start": started.isoformat(timespec="seconds"),
            "seconds": round((datetime.now(timezone.utc) - started).total_seconds(), 1),
        },
        "provenance": provenance(opened),
    }
    content = plain(content)  # as it is read back
    write_results(output, content, runs, parquet=args.parquet)
    return content


def _told(args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(settings), "units": list(settings.units), "decoding": "greedy", "precision": args.precision}


def _sweep(args: argparse.Namespace) -> None:
    from coprs_lightning.checkpoints.loading import open_model
    from coprs_lightning.checkpoints.run_folder import SPEC_KEY, read_header
    from coprs_lightning.evaluation.checkpoint import checksum
    from coprs_lightning.evaluation.progress import progress
    from coprs_lightning.evaluation.running import make_trainer, passes
    from coprs_lightning.evaluation.sweep import steps_of, write_curve
    from coprs_lightning.model import CoprsModel

    steps = steps_of(args.checkpoint)
    output = _output(args, steps[0].path, True)
    header = read_header(steps[-1].path)
    plan = _plan(args, header, str(steps[-1].path))
    generation = header[SPEC_KEY]["init_args"].get("generation") or {}
    settings = _settings(args, plan, generation.get("max_new_tokens", CoprsModel.max_new_tokens))
    sums = {step.number: checksum(step.path) for step in steps}
    finished = {step.number: _finished(args, settings, plan, output / step.folder, sums[step.number]) for step in steps}
    pending = [step for step in steps if finished[step.number] is None]
    note(f"{len(steps)} checkpoints, {len(steps) - len(pending)} of them evaluated before")
    trainer = make_trainer(accelerator=args.accelerator, devices=args.devices, precision=args.precision, folder=output)
    with progress(len(pending) * passes(plan, settings)) as shown:
        for step in pending:
            opened, folder = open_model(step.path), output / step.folder
            done = _evaluate(args, opened, sums[step.number], plan, settings, trainer, folder, shown)
            finished[step.number] = done
            if trainer.is_global_zero:
                write_curve(output, [content for content in finished.values() if content])
    if rank() == 0:
        write_curve(output, [content for content in finished.values() if content])
        best = max((content for content in finished.values() if content), key=_first_giou)
        note(f"best gIoU on {best['splits'][0]['name']}: {_first_giou(best):.4f}, {best['checkpoint']['file']}")
        note(f"wrote sweep.csv, sweep.png and a folder for each checkpoint to {output}")


def _first_giou(content: dict[str, Any]) -> float:
    return float(next(iter(content["splits"][0]["units"].values()))["scores"]["giou"]["value"])


def _finished(
    args: argparse.Namespace, settings: Settings, plan: Plan, folder: Path, sha256: str
) -> dict[str, Any] | None:
    """The results of an earlier evaluation of the same weights on the same data with the same settings."""
    from callbacks.files import plain
    from coprs_lightning.evaluation.writing import read_results

    content = read_results(folder)
    if content is None or content["checkpoint"]["sha256"] != sha256:
        return None
    if content["settings"] != plain(_told(args, settings)):
        return None
    evaluated = [(split["name"], [index["sha256"] for index in split["indexes"]]) for split in content["splits"]]
    wanted = [(split.name, split.sha256) for split in plan.splits]
    return content if evaluated == wanted else None


def _tell(content: dict[str, Any], output: Path) -> None:
    """Print the table, on the first process."""
    if not content:
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table("split", "unit", *(Column(name, justify="right") for name in ("n", "gIoU", "cIoU", "heatmap gIoU")))
    for split in content["splits"]:
        for unit, result in split["units"].items():
            scores = result["scores"]
            shown = [f"{100 * scores[name]['value']:.1f}" for name in ("giou", "ciou", "heatmap_giou")]
            table.add_row(split["name"], unit, f"{result['n']:,}{' ≠' if result['differs'] else ''}", *shown)
    Console().print(table)
    note(f"wrote results.md, results.csv, results.json, examples and panels to {output}")
