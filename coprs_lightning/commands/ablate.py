"""`coprs ablate`: which part is better, over several seeds, with its uncertainty and its cost."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coprs_lightning.cli_errors import note
from coprs_lightning.commands import CommandError, UsageError

if TYPE_CHECKING:
    from coprs_lightning.ablation.plan import Plan, Run
    from coprs_lightning.ablation.running import Launcher

HELP = "train variants of a config over several seeds and compare them; other options are those of `coprs fit`"
PASSES_ON = True
"""Words that are not its own go to every cell's `coprs fit`."""

FAILED = 3
"""Exit status where some runs failed and the others have their table."""

_MODES = ("grid", "one-at-a-time")
_SECONDS = {"local": 0.5, "slurm": 3.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See :mod:`coprs_lightning.commands`."""
    parser.usage = (
        "coprs ablate --config FILE --axis NAME=FILE,FILE,… [--axis …] [--seeds N] [--mode …] [--OPTION VALUE …]"
    )
    what = parser.add_argument_group("what")
    what.add_argument(
        "-c", "--config", action="append", default=[], metavar="FILE", help="the base; may be given several times"
    )
    what.add_argument(
        "--axis",
        action="append",
        default=[],
        metavar="NAME=FILE,…",
        help="overlays of one thing that varies: paths, shipped configs, or names in configs/ablation/NAME, such as "
        "heatmap_head=film,cosine; `base` stands for none",
    )
    what.add_argument("--mode", choices=_MODES, default="grid", help="every combination, or one axis at a time")
    what.add_argument("--seeds", default="1", metavar="N", help="3 for seeds 1, 2 and 3; or a list: 5,7,")
    what.add_argument(
        "--metric", action="append", metavar="NAME", help="val/giou by default; may be given several times"
    )
    where = parser.add_argument_group("where")
    where.add_argument("--output", metavar="DIR", help="folder of all runs and results; default runs/ablate-CONFIG")
    where.add_argument("--launcher", choices=("local", "slurm"), default="local", help="processes here, or a job array")
    where.add_argument("--max-parallel", type=int, default=1, metavar="N", help="runs at a time; %%N of a job array")
    where.add_argument(
        "--slurm", metavar="FILE", help="options of the jobs; or --slurm.time 2:00:00, --slurm.partition gpu …"
    )
    where.add_argument("--report-only", action="store_true", help="only make the tables again, of what is in --output")


def run(args: argparse.Namespace) -> int:
    """See :mod:`coprs_lightning.commands`.

    Raises:
        UsageError: for what cannot be understood; nothing was started then.
        CommandError: for a folder in use, or a cluster that cannot be used.
    """
    from coprs_lightning.ablation.plan import read_plan
    from coprs_lightning.ablation.running import run_all, tell_failures
    from coprs_lightning.ablation.state import only_one

    metrics = list(dict.fromkeys(args.metric or ["val/giou"]))
    if args.report_only:
        output = _output(args)
        cells, runs = read_plan(output)
        _report(output, cells, runs, metrics, None)
        return FAILED if tell_failures(runs) else 0
    if args.max_parallel < 1:
        raise UsageError(f"--max-parallel must be at least 1, got {args.max_parallel}.")
    plan, slurm = make_plan(args)
    cells, runs = [cell.name for cell in plan.cells], plan.runs()
    launcher = _launcher(args, plan, slurm)
    with only_one(plan.output):
        plan.write()
        note(f"{len(cells)} cells × {len(plan.seeds)} seeds = {len(runs)} runs in {plan.output}")
        stopped = run_all(cells, runs, launcher, metric=metrics[0], interval=_SECONDS[args.launcher])
        if stopped:
            return 128 + stopped
        _report(plan.output, cells, runs, metrics, args.max_parallel if args.launcher == "local" else None)
    return FAILED if tell_failures(runs) else 0


def make_plan(args: argparse.Namespace) -> tuple[Plan, dict[str, Any]]:
    """What the command line asks for, and SLURM's options.

    Raises:
        UsageError: for what cannot be understood.
    """
    from coprs_lightning.ablation.axes import cells_of, check_overrides, parse_axes
    from coprs_lightning.ablation.plan import Plan, check_extra
    from coprs_lightning.ablation.slurm import slurm_options
    from coprs_lightning.cli_configs import find_config, resolve_names

    if not args.config:
        raise UsageError("--config is missing: name the base, such as --config quickstart.yaml.")
    slurm, words = slurm_options(args.slurm, args.words)
    if slurm and args.launcher != "slurm":
        raise UsageError(
            f"--slurm.{next(iter(slurm))} is of no use to --launcher {args.launcher}. Add --launcher slurm."
        )
    check_extra(words)
    axes = parse_axes(args.axis)
    cells = cells_of(axes, args.mode)
    check_overrides(cells, words)
    plan = Plan(
        output=_output(args),
        axes=axes,
        mode=args.mode,
        cells=cells,
        seeds=parse_seeds(args.seeds),
        configs=[find_config(name) for name in args.config],
        extra=resolve_names(words),
    )
    return plan, slurm


def parse_seeds(text: str) -> list[int]:
    """``3`` is 1, 2, 3; ``5,7`` is just those.

    Raises:
        UsageError: for anything else, or a seed given twice.
    """
    if not re.fullmatch(r"\d+|\d+(,\d+)*,?", text):
        raise UsageError(f"--seeds {text!r} must be a number of seeds (3) or a list of them (5,7,).")
    listed = [int(word) for word in text.split(",") if word]
    seeds = listed if "," in text else list(range(1, listed[0] + 1))
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {text!r} must name at least one seed, and none twice.")
    return seeds


def _output(args: argparse.Namespace) -> Path:
    if args.output is None and not args.config:
        raise UsageError("--output is missing: name the folder of the ablation.")
    output = Path(args.output if args.output is not None else f"runs/ablate-{Path(args.config[0]).stem}")
    if output.exists() and not output.is_dir():
        raise CommandError(f"--output {output} is a file. Name a folder.")
    return output


def _launcher(args: argparse.Namespace, plan: Plan, slurm: dict[str, Any]) -> Launcher:
    """Check every cell, and make what will run them."""
    from coprs_lightning.ablation.checking import check_cells

    trainers = check_cells(plan)
    if args.launcher == "slurm":
        from coprs_lightning.ablation.slurm import SlurmLauncher, shape_of

        return SlurmLauncher(plan.output.absolute() / "slurm", args.max_parallel, slurm, shape_of(trainers))
    from torch.cuda import device_count

    from coprs_lightning.ablation.local import LocalLauncher

    return LocalLauncher(args.max_parallel, device_count())


def _report(output: Path, cells: list[str], runs: list[Run], metrics: list[str], parallel: int | None) -> None:
    """Write and print the results."""
    from rich.console import Console

    from callbacks.files import write_json
    from coprs_lightning.ablation.plot import draw
    from coprs_lightning.ablation.results import collect, plain
    from coprs_lightning.ablation.tables import csv_text, markdown, notes, terminal

    results = collect(cells, runs, metrics)
    (output / "results.md").write_text(markdown(results, parallel), encoding="utf-8")
    (output / "results.csv").write_text(csv_text(results), encoding="utf-8")
    draw(results, output / "results.png")
    write_json(output / "results.json", plain(results))
    table = terminal(results)
    # a file has no width: cut-off cells would be of no use there
    console = Console() if Console().is_terminal else Console(width=Console(width=10_000).measure(table).maximum)
    console.print(table)
    for text in notes(results, parallel):
        console.print(text, highlight=False, markup=False)
    note(f"wrote results.md, results.csv, results.json and results.png to {output}")
