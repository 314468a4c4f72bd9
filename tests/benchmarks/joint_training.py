"""Does joint training beat its halves? The paper's ablation in small, and the reinforcement quickstart.

    python -m tests.benchmarks.joint_training --output runs/quickstart-grpo --start runs/quickstart

For every seed: the start is validated, then trained on from the same checkpoint, on the same questions without written
thoughts, for the same number of steps: jointly, by segmentation alone and (``--variants``) by reinforcement alone.
Every number is of the last step's validation with greedy generation. ``results.json`` holds the seeds' results, at its
top those of the first; finished runs in the folder are not repeated. A Markdown table is printed and, as the last line,
the results as JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OVERLAYS: dict[str, list[str]] = {
    "joint": [],
    "segmentation_only": ["ablation/training/segmentation_only.yaml"],
    "reinforcement_only": ["ablation/training/reinforcement_only.yaml"],
}
"""What is laid over the config for each variant."""

RESULTS = "results.json"

AT_ENDS = 20
"""Steps at the start and at the end of a run over which its reward is averaged."""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for runs and results.json")
    parser.add_argument("--start", required=True, help="run to start from; {seed} in it is replaced by the seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--variants", nargs="+", choices=list(OVERLAYS), default=["joint", "segmentation_only"], metavar="NAME"
    )
    parser.add_argument("--config", default="quickstart_grpo.yaml", help="default: %(default)s")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time (their seconds are then no measure)")
    parser.add_argument("rest", nargs="*", help="after --: options for every run, e.g. -- --trainer.max_steps 50")
    return parser.parse_args(argv)


def run_all(commands: list[list[str]], parallel: int) -> None:
    """Run `coprs` commands, some at a time; their output goes to the terminal.

    Raises:
        SystemExit: when one of them fails.
    """
    waiting = list(commands)
    running: list[tuple[list[str], subprocess.Popen[bytes]]] = []
    while waiting or running:
        while waiting and len(running) < parallel:
            words = waiting.pop(0)
            running.append((words, subprocess.Popen([sys.executable, "-m", "coprs_lightning", *words])))
        words, process = running.pop(0)
        if process.wait():
            raise SystemExit(f"coprs {' '.join(words)} failed with status {process.returncode}.")


def folder_of(args: argparse.Namespace, seed: int, variant: str | None) -> Path:
    """Where a variant's run is, or the start's validation."""
    output: Path = args.output
    return output / f"seed-{seed}" / (variant or "start")


def command(args: argparse.Namespace, seed: int, variant: str | None) -> list[str]:
    """The `coprs` command of a variant, or of the start's validation."""
    start = Path(args.start.replace("{seed}", str(seed))) / "checkpoints" / "last.ckpt"
    configs = [word for name in [args.config, *OVERLAYS.get(variant or "", [])] for word in ("--config", name)]
    common = ["--seed_everything", str(seed), "--trainer.default_root_dir", str(folder_of(args, seed, variant))]
    return ["fit" if variant else "validate", *configs, *common, "--model.init_from", str(start), *args.rest]


def rewards(run: Path) -> tuple[float, float]:
    """Mean reward over the first and over the last steps that a run logged."""
    log = max((run / "logs").glob("version_*/metrics.csv"), key=lambda file: file.stat().st_mtime)
    with log.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/reward/total")]
    found = [(int(row["step"]), float(row["train/reward/total"])) for row in rows]
    last = found[-1][0]
    first = [reward for step, reward in found if step < AT_ENDS] or [found[0][1]]
    end = [reward for step, reward in found if step > last - AT_ENDS]
    return statistics.fmean(first), statistics.fmean(end)


def collect(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What a seed gave."""
    folder = args.output / f"seed-{seed}"
    read = {path.parent.name: json.loads(path.read_text()) for path in folder.glob(f"*/{RESULTS}")}
    found: dict[str, Any] = {"seed": seed, "start": read["start"]["giou"]}
    kinds = {"start": read["start"]["by_kind"]}
    for variant in args.variants:
        run = read[variant]
        begin, end = rewards(folder / variant)
        prefix = "" if variant == "joint" else f"{variant}_"
        found["end" if variant == "joint" else variant] = run["giou"]
        found |= {f"{prefix}reward_start": begin, f"{prefix}reward_end": end}
        found |= {f"{prefix}fit_seconds": run["fit_seconds"], f"{prefix}steps": run["global_step"]}
        kinds[variant] = run["by_kind"]
    return {**found, "by_kind": kinds}


def table(seeds: list[dict[str, Any]], variants: list[str]) -> str:
    """A Markdown table: a row a seed and the means, greedy val/giou, and joint training's reward."""
    names = ["start", *variants]
    lines = [f"| seed | {' | '.join(names)} | reward of joint |", "|---" * (len(names) + 2) + "|"]
    for found in seeds:
        values = [found["end" if name == "joint" else name] for name in names]
        reward = f"{found['reward_start']:.3f} → {found['reward_end']:.3f}" if "reward_start" in found else "–"
        lines.append(f"| {found['seed']} | {' | '.join(f'{value:.3f}' for value in values)} | {reward} |")
    means = [statistics.fmean(found["end" if name == "joint" else name] for found in seeds) for name in names]
    return "\n".join([*lines, f"| mean | {' | '.join(f'{mean:.3f}' for mean in means)} | |"])


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run, collect, print and write."""
    args = arguments(argv)
    wanted = [(seed, variant) for seed in args.seeds for variant in [None, *args.variants]]
    missing = [(seed, variant) for seed, variant in wanted if not (folder_of(args, seed, variant) / RESULTS).is_file()]
    run_all([command(args, seed, variant) for seed, variant in missing], args.parallel)
    seeds = [collect(args, seed) for seed in args.seeds]
    results = {**seeds[0], **({"seeds": seeds} if len(seeds) > 1 else {})}
    (args.output / RESULTS).write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nval/giou, greedy generation\n\n{table(seeds, args.variants)}\n\n{json.dumps(results)}")
    return results


if __name__ == "__main__":
    main()
