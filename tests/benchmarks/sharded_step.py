"""Steps of joint training under FSDP2 on one device, a sharded checkpoint between them, and the same steps resumed.

    python -m tests.benchmarks.sharded_step
    python -m tests.benchmarks.sharded_step --shape qwen2_5_vl_3b --device cuda

One run takes two steps and saves after the first, in pieces. Another, with other random weights, loads that checkpoint
and takes the second step. What it loaded must be what was saved, to the bit. Its second step must be the first run's,
as far as the device computes the same twice: the difference is told as a share of what the step changed. Weights are
random, of the chosen size, and all of the policy's are trained; the rest is as in
:mod:`tests.benchmarks.training_step`.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from coprs_lightning.module import CoprsModule, OptimizerOptions
from coprs_lightning.objectives import GRPOObjective
from coprs_lightning.rl.rollouts import TransformersRollout
from coprs_lightning.sharding.gather import full
from coprs_lightning.strategies.fsdp2 import FSDP2Strategy
from tests.benchmarks import training_step
from tests.benchmarks.inputs import parameters_of
from tests.benchmarks.measure import MIB, machine, memory_method, peak_bytes, report, seconds_of, synchronise

SHAPES = ("tiny", "qwen2_5_vl_3b")
COLUMNS = {
    "run": ("run", ""),
    "step": ("step", ""),
    "seconds": ("s", ".2f"),
    "loss": ("loss", ".6f"),
    "save_seconds": ("save s", ".2f"),
    "load_seconds": ("load s", ".2f"),
    "peak_mib": ("run's peak MiB", ".0f"),
}


class Watch(pl.Callback):
    """Times steps, draws the same samples in the same step of every run, and saves where told.

    Args:
        device: where the run computes.
        save: checkpoint to write after the first step.
    """

    def __init__(self, device: torch.device, save: Path | None) -> None:
        self.device = device
        self.save = save
        self.rows: list[dict[str, Any]] = []
        self.at_start: dict[str, Tensor] = {}
        self.saved: dict[str, Tensor] = {}
        self._began = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights that training starts from."""
        self.at_start = weights_of(pl_module)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Seed the step."""
        torch.manual_seed(trainer.global_step)
        synchronise(self.device)
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        """Note the step; save after the first."""
        synchronise(self.device)
        seconds, loss = time.perf_counter() - self._began, float(outputs["logs"]["loss"])
        row = {"step": trainer.global_step, "seconds": seconds, "loss": loss, "save_seconds": None}
        if self.save is not None and trainer.global_step == 1:
            save = self.save
            row["save_seconds"] = seconds_of(lambda: trainer.save_checkpoint(save), self.device)[0]
            self.saved = weights_of(module)
        self.rows.append(row)


def weights_of(module: torch.nn.Module) -> dict[str, Tensor]:
    """All weights in one piece, on the CPU."""
    return {name: full(p.detach()).cpu().clone() for name, p in module.named_parameters()}


def fit(options: argparse.Namespace, folder: Path, *, seed: int, load: Path | None = None) -> dict[str, Any]:
    """One run: two steps with a checkpoint between them, or the second step from a checkpoint.

    Returns:
        rows of the table, and weights at the start, as saved, and at the end.
    """
    device = torch.device(options.device)
    model, policy = training_step.build_model(options)
    batch = training_step.build_batch(model, policy, options)
    with torch.no_grad():  # every run begins elsewhere, so that what a checkpoint leaves out would show
        for parameter in model.parameters():
            parameter.mul_(1 + seed / 100)
    rollout = training_step.TimedRollout(TransformersRollout(max_new_tokens=options.completion_tokens))
    objective = GRPOObjective(
        num_generations=options.num_generations,
        rollout=rollout,
        micro_batch_size=options.micro_batch_size,
        beta=0.0,  # a reference would be the run's own start
    )
    rates = OptimizerOptions(learning_rate=1e-3)
    module = CoprsModule(**model.components(), objective=objective, optimizer=rates)  # type: ignore[arg-type]
    watch = Watch(device, None if load else folder / "first.ckpt")
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        strategy=FSDP2Strategy(),
        precision="bf16-mixed" if options.precision == "bf16" else "32-true",
        max_steps=2,
        max_epochs=2 if load else 1,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[watch],
    )
    loader: Any = DataLoader([batch] * 2, batch_size=None)  # type: ignore[arg-type]
    began = time.perf_counter()
    trainer.fit(module, loader, ckpt_path=load, weights_only=True)
    whole = time.perf_counter() - began
    for row in watch.rows:
        row |= {"run": "resumed" if load else "first", "load_seconds": None}
    if load:
        watch.rows[0]["load_seconds"] = whole - sum(row["seconds"] for row in watch.rows)
    return {"rows": watch.rows, "start": watch.at_start, "saved": watch.saved, "end": weights_of(module)}


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Root of the sum of squared differences of all weights."""
    squares = (first[name].float().sub(value.float()).double().square().sum() for name, value in second.items())
    return float(sum(squares)) ** 0.5


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, and those of the shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--folder", type=Path, help="for the checkpoint; by default one that is gone afterwards")
    given = parser.parse_args(argv)
    options = training_step.arguments(["--shape", given.shape, "--device", given.device, "--no-lora"])
    options.folder = given.folder
    if given.shape == "tiny":
        options.prompt_tokens, options.completion_tokens, options.num_generations = 32, 4, 2
    return options


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both runs, one after the other: the memory of a GPU may hold one only."""
    device = torch.device(options.device)
    runs: list[dict[str, Any]] = []
    for number in range(2):
        load = folder / "first.ckpt" if number else None
        peak = peak_bytes(lambda n=number, at=load: runs.append(fit(options, folder, seed=n, load=at)), device)[1]
        for row in runs[-1]["rows"]:
            row["peak_mib"] = peak / MIB
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    first, again = runs
    files = [file for file in (folder / "first.ckpt").rglob("*") if file.is_file()]
    loss = first["rows"][1]["loss"]
    return {
        "rows": [*first["rows"], *again["rows"]],
        "checkpoint_mib": sum(file.stat().st_size for file in files) / MIB,
        "checkpoint_files": len(files),
        "loaded_equals_saved": all(torch.equal(again["start"][k], v) for k, v in first["saved"].items()),
        "loss_difference": abs(again["rows"][0]["loss"] - loss) / abs(loss),
        "weight_difference": distance(again["end"], first["end"]) / distance(first["end"], first["saved"]),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = arguments(argv)
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory(prefix="coprs-sharded-") as name:
        found = measure(options, options.folder or Path(name))
    rows = found.pop("rows")
    hidden = ("device", "folder", "forward", "rollout", "steps")
    parameters = {**parameters_of(options, hidden=hidden), "memory": memory_method(device)}
    result = {"benchmark": "sharded_step", "machine": machine(device), "parameters": parameters, **found}
    report(result, rows, COLUMNS)


if __name__ == "__main__":
    main()
