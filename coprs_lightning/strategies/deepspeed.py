"""DeepSpeed ZeRO-3 by an extra, for training that decodes nothing."""

from __future__ import annotations

import importlib.util
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.strategies import DeepSpeedStrategy


class ZeRO3Strategy(DeepSpeedStrategy):
    """Divides weights, gradients and optimizer states of the whole model among all GPUs, by DeepSpeed.

    :class:`~coprs_lightning.strategies.fsdp2.FSDP2Strategy` is what this project is tested with. This one is for
    teacher-forced training on clusters that are set up for DeepSpeed: under ZeRO-3 every pass waits for all processes,
    so they cannot decode completions of different lengths.

    Args:
        offload_optimizer: keep optimizer states in CPU memory.
        offload_parameters: keep weights in CPU memory.

    Raises:
        ImportError: without DeepSpeed.
    """

    def __init__(self, offload_optimizer: bool = False, offload_parameters: bool = False) -> None:
        if importlib.util.find_spec("deepspeed") is None:
            raise ImportError(
                "trainer.strategy ZeRO3Strategy needs the package deepspeed, which is not installed. Install it with "
                "pip install 'coprs_lightning[deepspeed]', or take trainer/fsdp.yaml, which needs nothing more."
            )
        super().__init__(stage=3, offload_optimizer=offload_optimizer, offload_parameters=offload_parameters)

    def connect(self, model: pl.LightningModule) -> None:
        """Take the module that is to be trained.

        Raises:
            ValueError: for one that decodes.
        """
        refuse_decoding(model)
        super().connect(model)


def refuse_decoding(module: Any) -> None:
    """Refuse a module that decodes in training or validation.

    Args:
        module: a :class:`~coprs_lightning.module.CoprsModule`.

    Raises:
        ValueError: naming the option.
    """
    found = []
    if module.objective.samples:
        found.append(f"model.objective ({type(module.objective).__name__}) samples completions")
    if module.validation == "generate":
        found.append("model.validation is generate")
    if found:
        raise ValueError(
            f"{' and '.join(found)}, but under DeepSpeed ZeRO-3 every pass waits for all processes: completions of "
            "different lengths would make them wait for ever. Take trainer/fsdp.yaml; or train with "
            "SupervisedObjective (own_completions_every: 0) and model.validation: teacher_forced."
        )
