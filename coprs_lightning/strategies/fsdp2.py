"""The strategy that divides the policy: Lightning's ``ModelParallelStrategy`` with checkpoints that can be trusted."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.constants import default_pg_timeout
from torch.optim import Optimizer

from coprs_lightning.checkpoints.sharded import (
    REST,
    is_sharded_checkpoint,
    load_pieces,
    named,
    numbered,
    read_index,
    read_rest,
)
from coprs_lightning.sharding.gather import gather, release_all


class FSDP2Strategy(ModelParallelStrategy):
    """Divides the policy's weights, gradients and optimizer states among all processes (torch's ``fully_shard``).

    Args:
        save_distributed_checkpoint: save the pieces of every process into a folder (a sharded checkpoint); else gather
            all on the first process and save one file. Both load with any number of processes and any strategy.
        process_group_backend: ``nccl`` or ``gloo``; ``null`` takes what goes with the device.
        timeout: how long processes wait for each other.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        self._gathered_before: list[torch.nn.Module] = []

    def setup_environment(self) -> None:
        """All processes are one group; Lightning's own choice would divide every layer inside of a node."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Pieces of the weights, or on the first process all of them; see :meth:`save_checkpoint`."""
        module: Any = self.lightning_module
        module.agree_on_buffers()
        self._gathered_before = release_all(module)
        return super().lightning_module_state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As Lightning's; where one file is saved, as the optimizer itself would have it."""
        if self._save_distributed_checkpoint:
            return super().optimizer_state(optimizer)
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        assert self.model is not None
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_optimizer_state_dict(self.model, inner, options=options)
        return numbered(state) if state else state

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a folder of pieces beside its place, then put it there whole; or one file.

        Raises:
            TypeError: for ``storage_options``, which nothing here takes.
        """
        if storage_options is not None:
            raise TypeError("FSDP2Strategy takes no storage_options: checkpoints go to a file system. Leave them out.")
        path = Path(self.broadcast(filepath))
        if self._save_distributed_checkpoint:
            self._save_pieces(checkpoint, path)
        else:
            if self.is_global_zero and path.is_dir():
                shutil.rmtree(path)
            if self.is_global_zero:
                self.checkpoint_io.save_checkpoint(checkpoint, path)
        self.barrier()
        self._gather_again()

    def _save_pieces(self, checkpoint: dict[str, Any], path: Path) -> None:
        from torch.distributed.checkpoint.filesystem import FileSystemWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        beside = path.with_name(f".{path.name}.part")
        if self.is_global_zero:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        self.barrier()
        pieces = {"state_dict": checkpoint.pop("state_dict")}
        for number, state in enumerate(checkpoint.pop("optimizer_states", [])):
            pieces[f"optimizer_{number}"] = state
        save(pieces, storage_writer=FileSystemWriter(beside))
        if not self.is_global_zero:
            return
        torch.save(checkpoint, beside / REST)
        old = path.with_name(f".{path.name}.old")
        _remove(old)
        if path.exists():
            path.rename(old)
        beside.rename(path)
        _remove(old)

    def _gather_again(self) -> None:
        for part in self._gathered_before:
            gather(part)
        self._gathered_before = []

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint of any number of processes, in pieces or in one file, always as plain data."""
        path = Path(self.broadcast(checkpoint_path))
        return self._load_pieces(path) if is_sharded_checkpoint(path) else self._load_file(path)

    def _load_pieces(self, path: Path) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            get_model_state_dict,
            get_optimizer_state_dict,
            set_optimizer_state_dict,
        )

        rest = read_rest(path)
        module: Any = self.lightning_module
        weights: dict[str, Any] = get_model_state_dict(module)
        _check_same_weights(path, weights)
        load_pieces(path, {"state_dict": weights})
        module.load_state_dict(weights)
        for number, optimizer in enumerate(self.optimizers):
            name = f"optimizer_{number}"
            own = {name: get_optimizer_state_dict(module, optimizer)}
            load_pieces(path, own)
            options = StateDictOptions(cpu_offload=False)
            set_optimizer_state_dict(module, optimizer, optim_state_dict=own[name], options=options)
        return rest

    def _load_file(self, path: Path) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            set_model_state_dict,
            set_optimizer_state_dict,
        )

        if not path.is_file():
            raise FileNotFoundError(f"there is no checkpoint {path}.")
        module: Any = self.lightning_module
        content: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        options = StateDictOptions(full_state_dict=True, strict=module.strict_loading)
        set_model_state_dict(module, content["state_dict"], options=options)
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        for optimizer, state in zip(self.optimizers, content.pop("optimizer_states", []), strict=False):
            order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
            set_optimizer_state_dict(module, optimizer, optim_state_dict=named(state, order), options=options)
        return content


def _check_same_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Refuse a sharded checkpoint of another model, before anything is loaded.

    Raises:
        RuntimeError: as ``load_state_dict`` does, naming what differs.
    """
    index = read_index(path)
    places = {place[1]: name for name, place in index.planner_data.items() if place[0] == "state_dict"}
    problems = [f"Missing key: {name}" for name in weights if name not in places]
    problems += [f"Unexpected key: {name}" for name in places if name not in weights]
    for name, value in weights.items():
        if name in places and tuple(index.state_dict_metadata[places[name]].size) != tuple(value.shape):
            there = tuple(index.state_dict_metadata[places[name]].size)
            problems.append(f"size mismatch: {name} is {there} in the checkpoint, {tuple(value.shape)} in the model")
    if problems:
        raise RuntimeError(
            f"Error(s) in loading state_dict from {path}: it is a checkpoint of another model, so nothing was loaded. "
            f"{len(problems)} weights differ: {'; '.join(problems[:8])}"
        )


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
