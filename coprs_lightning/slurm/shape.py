"""Nodes and processes of a job against those of the Trainer: a mismatch would wait in the queue, and then hang."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from coprs_lightning.commands import UsageError
from coprs_lightning.slurm.options import JobOptions

_GPU = ("gpu", "cuda")


@dataclass(frozen=True)
class Shape:
    """Layout of a job.

    Attributes:
        nodes: number of nodes.
        tasks: processes on each.
        gpus: GPUs on each.
        words: options that tell the Trainer so.
    """

    nodes: int
    tasks: int
    gpus: int
    words: tuple[str, ...]


def match(job: JobOptions, num_nodes: Any, devices: Any, accelerator: Any) -> Shape:
    """The job's layout, if job and Trainer agree.

    Args:
        job: what the command line says.
        num_nodes: ``trainer.num_nodes`` as given in configs and options; ``None`` where it is not.
        devices: ``trainer.devices``, likewise.
        accelerator: ``trainer.accelerator``, likewise.

    Raises:
        UsageError: where they do not, or where it stays open how many processes there are.
    """
    words: list[str] = []
    given = None if num_nodes is None else _count(num_nodes)
    if num_nodes is not None and given is None:
        raise UsageError(
            f"trainer.num_nodes must be a whole number of at least 1, got {num_nodes!r}. Nothing was queued."
        )
    nodes = _agree("--nodes", job.nodes, "trainer.num_nodes", given)
    if num_nodes is None:
        nodes = nodes or 1
        words += ["--trainer.num_nodes", str(nodes)]
    asked = job.tasks_per_node or job.gpus_per_node or None
    wanted = _count(devices)
    tasks = _agree("--tasks-per-node" if job.tasks_per_node else "--gpus-per-node", asked, "trainer.devices", wanted)
    if tasks is None:
        raise UsageError(
            f"it is open how many processes a node has: trainer.devices is {devices!r}. Give --gpus-per-node N, or "
            "--tasks-per-node N for a run without GPUs."
        )
    if wanted is None:
        words += ["--trainer.devices", str(tasks)]
    on_gpu = str(accelerator) in _GPU
    if job.gpus_per_node is None and accelerator in (None, "auto"):
        raise UsageError(
            f"it is open whether the run needs GPUs: trainer.accelerator is {accelerator or 'not set'}, and a job that "
            f"asks for none would train on the CPU. Give --gpus-per-node {tasks}, or, without GPUs, --gpus-per-node 0 "
            f"--tasks-per-node {tasks}."
        )
    gpus = job.gpus_per_node if job.gpus_per_node is not None else tasks if on_gpu else 0
    if on_gpu and gpus < tasks:
        raise UsageError(
            f"trainer.accelerator {accelerator} needs a GPU for each of {tasks} processes of a node, but "
            f"--gpus-per-node is {gpus}. Give --gpus-per-node {tasks}, or --trainer.accelerator cpu."
        )
    if gpus and str(accelerator) == "cpu":
        raise UsageError(
            f"--gpus-per-node {gpus}: trainer.accelerator is cpu, so they would stand idle. Give --gpus-per-node 0 "
            f"--tasks-per-node {tasks}, or --trainer.accelerator gpu."
        )
    assert nodes is not None
    return Shape(nodes, tasks, gpus, tuple(words))


def _agree(option: str, asked: int | None, name: str, given: int | None) -> int | None:
    if asked is not None and given is not None and asked != given:
        raise UsageError(
            f"{option} {asked}, but {name} is {given} in the config: SLURM would start {asked} where the run waits for "
            f"{given}. Add --{name} {asked}, or give {option} {given}. Nothing was queued."
        )
    return given if asked is None else asked


def _count(devices: Any) -> int | None:
    """Processes by ``trainer.devices``; ``None`` where it leaves them open."""
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, str) and "," in devices:  # the Trainer's "0,1": these two
        return len([device for device in devices.split(",") if device.strip()])
    if re.fullmatch("[0-9]+", str(devices)) and int(devices) > 0:
        return int(devices)
    return None
