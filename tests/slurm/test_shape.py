"""Nodes × tasks against the Trainer."""

from __future__ import annotations

from typing import Any

import pytest

from coprs_lightning.commands import UsageError
from coprs_lightning.slurm.options import JobOptions
from coprs_lightning.slurm.shape import Shape, match

AGREEING: dict[str, tuple[dict[str, Any], tuple[Any, Any, Any], Shape]] = {
    "told by the options alone": (
        {"nodes": 2, "gpus_per_node": 8},
        (None, None, "gpu"),
        Shape(2, 8, 8, ("--trainer.num_nodes", "2", "--trainer.devices", "8")),
    ),
    "told by the config alone": ({}, (2, 8, "gpu"), Shape(2, 8, 8, ())),
    "told by both": ({"nodes": 2, "gpus_per_node": 4}, (2, [0, 1, 2, 3], "cuda"), Shape(2, 4, 4, ())),
    "devices left open": ({"gpus_per_node": 4}, (None, "auto", "gpu"), Shape(1, 4, 4, ("--trainer.num_nodes", "1",
                                                                                       "--trainer.devices", "4"))),
    "devices by number": ({}, (1, "0,1", "gpu"), Shape(1, 2, 2, ())),
    "accelerator left open": ({"gpus_per_node": 0, "tasks_per_node": 2}, (1, 2, None), Shape(1, 2, 0, ())),
    "without GPUs": ({"nodes": 2, "gpus_per_node": 0, "tasks_per_node": 3}, (2, "3", "cpu"), Shape(2, 3, 0, ())),
    "more GPUs than processes": ({"tasks_per_node": 1, "gpus_per_node": 2}, (1, 1, "gpu"), Shape(1, 1, 2, ())),
}  # fmt: skip


@pytest.mark.parametrize(("job", "trainer", "expected"), AGREEING.values(), ids=AGREEING)
def test_what_agrees(job: dict[str, Any], trainer: tuple[Any, Any, Any], expected: Shape) -> None:
    assert match(JobOptions(**job), *trainer) == expected


WRONG: dict[str, tuple[dict[str, Any], tuple[Any, Any, Any], str]] = {
    "nodes": ({"nodes": 4, "gpus_per_node": 8}, (2, 8, "gpu"), "--nodes 4, but trainer.num_nodes is 2"),
    "tasks": ({"gpus_per_node": 4}, (1, 8, "gpu"), r"--gpus-per-node 4, but trainer\.devices is 8 .* Add "
                                                   r"--trainer\.devices 4, or give --gpus-per-node 8"),
    "open": ({"nodes": 2}, (None, -1, "gpu"), r"how many processes a node has: trainer\.devices is -1"),
    "no nodes": ({}, (0, 1, "cpu"), "trainer.num_nodes must be a whole number of at least 1, got 0"),
    "GPUs or not": ({}, (1, 8, "auto"), r"whether the run needs GPUs: trainer\.accelerator is auto.*Give "
                                        r"--gpus-per-node 8, or, without GPUs, --gpus-per-node 0 --tasks-per-node 8"),
    "too few GPUs": ({"tasks_per_node": 4, "gpus_per_node": 2}, (1, 4, "gpu"), "needs a GPU for each of 4"),
    "idle GPUs": ({"gpus_per_node": 2}, (1, 2, "cpu"), "would stand idle"),
}  # fmt: skip


@pytest.mark.parametrize(("job", "trainer", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not(job: dict[str, Any], trainer: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        match(JobOptions(**job), *trainer)
