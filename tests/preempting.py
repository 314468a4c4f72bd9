"""Callbacks for runs that are cut short: one sends a signal at a chosen moment, one writes down what the run sees."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback


class Signal(Callback):
    """Sends this process a signal, once.

    Args:
        step: optimizer steps before it.
        name: of the signal.
        validating: in the validation after that step, not at its end.
        everyone: also to the loader workers, as SLURM does.
        rank: of the process that gets it.
    """

    def __init__(
        self, step: int, name: str = "SIGUSR1", validating: bool = False, everyone: bool = False, rank: int = 0
    ) -> None:
        self.step, self.name, self.validating, self.everyone, self.rank = step, name, validating, everyone, rank
        self._sent = False

    def _send(self, trainer: Any) -> None:
        if (
            self._sent
            or trainer.global_rank != self.rank
            or trainer.global_step != self.step
            or trainer.sanity_checking
        ):
            return
        self._sent = True
        if self.everyone:
            for child in children(os.getpid()):
                os.kill(child, signal.Signals[self.name])
        os.kill(os.getpid(), signal.Signals[self.name])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if not self.validating:
            self._send(trainer)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if self.validating:
            self._send(trainer)


class Sleeps(Callback):
    """Stays away from the next step in one process.

    Args:
        step: optimizer steps before it.
        rank: of the process.
        seconds: how long.
    """

    def __init__(self, step: int, rank: int, seconds: float) -> None:
        self.step, self.rank, self.seconds = step, rank, seconds

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            time.sleep(self.seconds)


class Raises(Callback):
    """Fails in one process.

    Args:
        step: optimizer steps before it.
        rank: of the process.
    """

    def __init__(self, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            raise RuntimeError("a disk is full")


class Diary(Callback):
    """Writes a line a training step: examples, loss, a random number; and a line a validation.

    Args:
        folder: a file for each process is written there; a run that goes on adds to it.
        seconds: how long a step takes at least.
    """

    def __init__(self, folder: str, seconds: float = 0.0) -> None:
        self.folder, self.seconds = Path(folder), seconds

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        time.sleep(self.seconds)
        self._random = float(torch.rand(()))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        line = {"step": trainer.global_step, "keys": list(batch.keys), "loss": float(outputs["loss"])}
        self._write(trainer, {**line, "epoch": trainer.current_epoch, "random": self._random})

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            scores = {
                "giou": float(trainer.callback_metrics["val/giou"]),
                "n": float(trainer.callback_metrics["val/n"]),
            }
            self._write(trainer, {"step": trainer.global_step, "random": float(torch.rand(())), **scores})

    def _write(self, trainer, line):
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def diary(folder: Path) -> list[list[dict[str, Any]]]:
    """Lines of every process."""
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in sorted(folder.glob("*.jsonl"))]


def children(process: int) -> list[int]:
    """Processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def as_class(cls: type, **options: Any) -> dict[str, Any]:
    """An entry of ``trainer.callbacks``."""
    return {"class_path": f"tests.preempting.{cls.__name__}", "init_args": options}


def same_weights(one: Path, other: Path) -> float:
    """The largest difference between the weights of two checkpoints."""
    states = [torch.load(path, weights_only=True)["state_dict"] for path in (one, other)]
    assert states[0].keys() == states[1].keys()
    return max(float((states[0][name].float() - states[1][name].float()).abs().max()) for name in states[0])
