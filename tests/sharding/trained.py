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
from coprs_lightning.policies import Policy
from coprs_lightning.policies.lora import LoraOptions
from coprs_lightning.rl.advantages import DrGRPOAdvantages
from coprs_lightning.rl.rollouts import TransformersRollout
from coprs_lightning.strategies.fsdp2 import FSDP2Strategy
from coprs_lightning.structures import Completions, Prompts, SegmentationBatch
from datamodules.collate import FrameCollator
from tests.conftest import REPO
from tests.objectives.replay import ReplayRollout
from tests.parts import FRAME, SIZES, rectangle, small_model, small_policy

GLOBAL_BATCH = 4


class Watch(pl.Callback):
    """The loss of every step, averaged over the processes; saves after steps that are told."""

    def __init__(self, save_at: dict[int, str]) -> None:
        self.losses: list[float] = []
        self.save_at = save_at

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        loss = outputs["logs"]["loss"].detach().clone()
        if dist.is_initialized():
            dist.all_reduce(loss)
            loss /= dist.get_world_size()
        self.losses.append(float(loss))
        if trainer.global_step in self.save_at:
            trainer.save_checkpoint(self.save_at[trainer.global_step])


class UnequalRollout(TransformersRollout):
    """Samples completions that are longer in the second process."""

    def sample(self, policy: Policy, prompts: Prompts, num_generations: int) -> Completions:
        """See :meth:`RolloutEngine.sample`."""
        self.max_new_tokens = 3 + 9 * int(os.environ.get("RANK", 0))
        return super().sample(policy, prompts, num_generations)


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
    if policy_options.get("config_overrides") == "untied":
        text = {**SIZES["text_config"], "tie_word_embeddings": False}
        policy_options["config_overrides"] = {**SIZES, "text_config": text, "tie_word_embeddings": False}
    if "lora" in policy_options:
        policy_options["lora"] = LoraOptions(**policy_options["lora"])
    model = small_model(policy=small_policy(**policy_options))
    model.heatmap_head.lr_multiplier, model.decoder.lr_multiplier = 25.0, 5.0
    if options.get("objective") == "grpo":
        rollout = UnequalRollout() if options.get("unequal") else ReplayRollout()
        given = {"num_generations": 4, "rollout": rollout, "advantages": DrGRPOAdvantages(), "beta": 0.2}
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
            ``skip`` (first steps' batches left out), ``save_at`` (checkpoints by step), ``load``, ``full`` (one file),
            ``policy``, ``objective``, ``objective_args``, ``clip``, ``accumulate``, ``precision``, ``unequal``,
            ``different`` (weights that differ from process to process).
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    saves = {int(step): path for step, path in options.get("save_at", {}).items()}
    module, watch = module_of(options), Watch(saves)
    if options.get("different"):
        torch.nn.init.constant_(module.model.heatmap_head.q_proj.weight, rank)  # type: ignore[arg-type]
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=strategy_of(options["strategy"], options.get("full", False)),
        max_steps=options["steps"],
        max_epochs=3,
        gradient_clip_val=options.get("clip", 0.5),
        gradient_clip_algorithm=options.get("clip_by", "norm"),
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
    given = given[options.get("skip", 0) :]
    loader: Any = DataLoader(given, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader, ckpt_path=options.get("load"), weights_only=True)
    state = whole_state(module)
    if trainer.is_global_zero:
        torch.save({"losses": watch.losses, "state": state}, options["out"])


def launch(processes: int, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Train in new processes, one case after the other; losses and weights of each.

    Args:
        processes: how many.
        cases: options of :func:`train`.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, "-m", "tests.sharding.trained", json.dumps(cases, default=str)],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return [torch.load(case["out"]) for case in cases]


def alone(case: dict[str, Any]) -> dict[str, Any]:
    """Train in this process, with Lightning's plain strategy unless the case names another."""
    train({"strategy": "auto", **case})
    found: dict[str, Any] = torch.load(case["out"])
    return found


if __name__ == "__main__":
    for given in json.loads(sys.argv[1]):
        train(given)
