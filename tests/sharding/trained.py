"""A small model trained on given batches, alone or by several processes; also run by torchrun as a module.

The global batch is four examples; every process takes its share, so all numbers of processes do the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.utils.data import DataLoader

from coprs_lightning.module import CoprsModule, OptimizerOptions
from coprs_lightning.objectives import GRPOObjective, SupervisedObjective
from coprs_lightning.policies.lora import LoraOptions
from coprs_lightning.rl.advantages import DrGRPOAdvantages
from coprs_lightning.sharding.strategy import FSDP2Strategy
from coprs_lightning.structures import SegmentationBatch
from datamodules.collate import FrameCollator
from tests.conftest import REPO
from tests.objectives.replay import ReplayRollout
from tests.parts import FRAME, rectangle, small_model, small_policy

GLOBAL_BATCH = 4


class Watch(pl.Callback):
    """The loss of every step, averaged over the processes, and the norm of all gradients after clipping."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        loss = outputs["logs"]["loss"].detach().clone()
        if dist.is_initialized():
            dist.all_reduce(loss)
            loss /= dist.get_world_size()
        self.losses.append(float(loss))


def batches(steps: int, rank: int, world: int) -> list[SegmentationBatch]:
    """This process' share of every global batch."""
    sizes = [(40, 60), (64, 48), (30, 90), (50, 50)]
    share = GLOBAL_BATCH // world
    found = []
    for step in range(steps):
        numbers = [GLOBAL_BATCH * step + rank * share + i for i in range(share)]
        found.append(FrameCollator(FRAME)([rectangle(*sizes[n % len(sizes)], n) for n in numbers]))
    return found


def module_of(options: dict[str, Any]) -> CoprsModule:
    """The model with an objective, every part at a learning rate of its own."""
    policy_options = dict(options.get("policy", {}))
    if "lora" in policy_options:
        policy_options["lora"] = LoraOptions(**policy_options["lora"])
    model = small_model(policy=small_policy(**policy_options))
    model.heatmap_head.lr_multiplier, model.decoder.lr_multiplier = 25.0, 5.0
    if options.get("objective") == "grpo":
        given = {"num_generations": 4, "rollout": ReplayRollout(), "advantages": DrGRPOAdvantages(), "beta": 0.2}
        objective: Any = GRPOObjective(**{**given, **options.get("objective_args", {})})
    else:
        objective = SupervisedObjective(**options.get("objective_args", {}))
    rates = OptimizerOptions(learning_rate=options.get("learning_rate", 1e-3))
    return CoprsModule(**model.components(), objective=objective, optimizer=rates)  # type: ignore[arg-type]


def strategy_of(name: str, full: bool) -> Any:
    """By its short name."""
    if name == "fsdp":
        return FSDP2Strategy(process_group_backend="gloo", save_distributed_checkpoint=not full)
    return DDPStrategy(process_group_backend="gloo") if name == "ddp" else "auto"


def whole_state(module: CoprsModule) -> dict[str, Tensor]:
    """All weights in one piece, on the first process."""
    return get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def train(options: dict[str, Any]) -> None:
    """Fit as told; the first process writes what came out.

    Args:
        options: ``strategy`` (``fsdp``, ``ddp``, ``auto``), ``steps``, ``of`` (steps of the schedule), ``out`` (file),
            ``save`` and ``load`` (checkpoints), ``full`` (one file), ``policy``, ``objective``, ``objective_args``.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    module, watch = module_of(options), Watch()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=strategy_of(options["strategy"], options.get("full", False)),
        max_steps=options["steps"],
        max_epochs=1,
        gradient_clip_val=options.get("clip", 0.5),
        accumulate_grad_batches=options.get("accumulate", 1),
        precision=options.get("precision", "32-true"),
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=Path(options["out"]).parent,
        callbacks=[watch],
    )
    given = batches(options.get("of", options["steps"]), rank, world)
    if "load" in options and options.get("skip"):
        given = given[options["skip"] :]
    loader: Any = DataLoader(given, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader, ckpt_path=options.get("load"), weights_only=True)
    if "save" in options:
        trainer.save_checkpoint(options["save"])
    state = whole_state(module)
    if trainer.is_global_zero:
        torch.save({"losses": watch.losses, "state": state}, options["out"])


def launch(processes: int, **options: Any) -> dict[str, Any]:
    """Train in new processes; the losses and the weights.

    Args:
        processes: how many.
        options: see :func:`train`.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, "-m", "tests.sharding.trained", json.dumps(options, default=str)],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    found: dict[str, Any] = torch.load(options["out"])
    return found


if __name__ == "__main__":
    train(json.loads(sys.argv[1]))
