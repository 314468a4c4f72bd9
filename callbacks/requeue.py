"""Survives preemption and time limits: a signal → one checkpoint → the job goes back into the queue and goes on."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint

from callbacks import random_states
from callbacks.signals import SIGNALS
from callbacks.slurm_job import job_id, requeue

if TYPE_CHECKING:
    import lightning.pytorch as pl

STATE_KEY = "coprs_requeue"


class Preempted(SystemExit):
    """The run was asked to end and has saved its state."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(status)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Requeue(Callback):
    """Saves the run and puts its job back into the queue when SIGUSR1 or SIGTERM comes; a resumed run repeats nothing.

    SLURM sends such a signal before a time limit (``#SBATCH --signal=USR1@120``) and before preemption. The handler
    only sets a flag. At the end of the optimizer step all processes agree (one reduction of one number) and save
    ``<filename>`` beside the other checkpoints, first under another name, so that it is never half there. Then the
    first process asks SLURM to requeue the job, and the run ends; outside SLURM it says how to go on. In a validation,
    no batch more is evaluated, and the run that goes on evaluates from the beginning.

    Every checkpoint holds the random states of all processes. With as many processes as before, a resumed run goes on
    with them, as if it had never stopped.

    Args:
        every_n_steps: optimizer steps between two looks at the flag.
        filename: of the checkpoint, in the folder of the others.

    Raises:
        ValueError: for ``every_n_steps`` below 1.
    """

    def __init__(self, *, every_n_steps: int = 1, filename: str = "preempted.ckpt") -> None:
        if every_n_steps < 1:
            raise ValueError(f"Requeue.every_n_steps must be ≥ 1, got {every_n_steps}. To switch it off: null.")
        self.every_n_steps = every_n_steps
        self.filename = filename
        self._forget()

    def _forget(self) -> None:
        self._steps = 0
        self._loaded: dict[str, Any] | None = None
        self._resumed: dict[str, Any] | None = None
        self._before_validation: dict[str, Any] | None = None
        self._interrupts_validation = False
        self._ends_epoch = False
        self._max_steps: int | None = None

    # -- listening ---------------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listen; be asked after the other callbacks, so that a checkpoint holds what they made of the step."""
        if stage != "fit":
            return
        self._forget()
        SIGNALS.listen()
        present: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        others = [callback for callback in present if callback is not self and type(callback) is not _First]
        saving = [callback for callback in others if isinstance(callback, Checkpoint)]
        others = [callback for callback in others if not isinstance(callback, Checkpoint)]
        # a new list, for Lightning is just walking through the old one
        trainer.callbacks = [_First(self), *others, self, *saving]  # type: ignore[attr-defined]

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen instead of Lightning, whose handler of SIGTERM, installed just now, communicates."""
        SIGNALS.listen()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the handlers back."""
        if stage == "fit":
            SIGNALS.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the handlers back, unless SLURM is about to end this process."""
        if not (isinstance(exception, Preempted) and exception.code == 0):
            SIGNALS.stop()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The run has ended: its checkpoint for going on is of no use where a later one is there."""
        path = _folder(trainer) / self.filename
        if not trainer.is_global_zero or not path.exists():
            return
        if any(other.stat().st_mtime > path.stat().st_mtime for other in path.parent.glob("*.ckpt")):
            _remove(path)

    # -- training ----------------------------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, if a process was asked to."""
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate():
            return  # gradients of half a step are in no checkpoint
        data_fetcher = trainer.fit_loop._data_fetcher
        validates = data_fetcher is not None and loop._should_check_val_fx(data_fetcher)
        self._before_validation = random_states.collect() if validates else None
        self._steps += 1
        if self._steps % self.every_n_steps or (not validates and _is_over(trainer)):
            return
        heard = _heard_by_any(trainer)
        if not heard:
            return
        # what Lightning does between this hook and the next step
        trainer._logger_connector.on_batch_end()
        loop.batch_progress.increment_completed()
        trainer._logger_connector.update_train_step_metrics()
        if not validates:
            loop._batches_that_stepped += 1
        self._save_and_stop(trainer, heard, validates=validates)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Do not finish the validation; processes that have heard nothing come to :meth:`end_of_validation`."""
        if SIGNALS.heard is not None:
            self.end_of_validation(trainer)

    def end_of_validation(self, trainer: pl.Trainer) -> None:
        """Save and stop, if a process was asked to; all come here once a validation, however many batches they have."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            heard = _heard_by_any(trainer)
            if heard:
                self._save_and_stop(trainer, heard, validates=True)

    def _save_and_stop(self, trainer: pl.Trainer, heard: int, *, validates: bool) -> None:
        """Save, requeue the job and end.

        Raises:
            Preempted: always.
        """
        began = time.monotonic()
        self._interrupts_validation = validates
        self._ends_epoch = not validates and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        path = Path(trainer.strategy.broadcast(str(_folder(trainer) / self.filename)))
        beside = path.with_name(f".{path.name}.tmp")
        if trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove(beside)
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            _put(beside, path)
        seconds = time.monotonic() - began
        for logger in trainer.loggers:
            logger.save()
        told = ("", 0)
        if trainer.is_global_zero:
            name = signal.Signals(heard).name
            _say(f"{name}: saved step {trainer.global_step} to {path} in {seconds:.1f} s")
            told = _requeue_or_tell(128 + heard)
        message, status = trainer.strategy.broadcast(told)
        if trainer.is_global_zero:
            _say(message)
        # one process tells the launcher; the others would be taken for failures
        raise Preempted(message, status if trainer.is_global_zero else 0)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random states of all processes, and what of the loop is left: a validation, or an epoch's end."""
        own = self._before_validation if self._interrupts_validation else None
        states = random_states.of_all(trainer, own or random_states.collect())
        checkpoint[STATE_KEY] = {
            "random": states,
            "validation": self._interrupts_validation,
            "epoch_end": self._ends_epoch,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what :meth:`on_save_checkpoint` added until training starts."""
        if trainer.state.fn != "fit":
            return
        self._loaded = checkpoint.get(STATE_KEY)
        limit, done = trainer.max_steps, int(checkpoint["global_step"])
        if self._loaded and self._loaded["validation"] and 0 <= limit <= done:
            # all steps are done, but not the validation after the last: Lightning must not skip the run
            self._max_steps = limit
            trainer.fit_loop.epoch_loop.max_steps = done + 1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After resuming: the random states of before, then the validation that was cut short."""
        SIGNALS.listen()
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps = self._max_steps
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        if len(loaded["random"]) == trainer.world_size:
            random_states.restore(loaded["random"][trainer.global_rank])
        if loaded["validation"]:
            self._before_validation = random_states.collect()
            _validate(trainer)
        elif loaded["epoch_end"]:
            # else Lightning would wait for a validation, and train on before the epoch ends
            trainer.fit_loop.epoch_loop.val_loop._has_run = True
            self._ends_epoch = True
        self._resumed = random_states.collect()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The epoch that had only its end left is over: its loop must not end the next one too."""
        if self._ends_epoch:
            trainer.fit_loop.epoch_loop.restarting = False
            trainer.fit_loop.epoch_loop.val_loop._has_run = False
            self._ends_epoch = False

    def before_train_batch(self, batch_idx: int) -> None:
        """Inside an epoch, forget what starting its loader once more took from the generators."""
        if self._resumed is not None and batch_idx > 0:
            random_states.restore(self._resumed)
        self._resumed = None


class _First(Callback):
    """Stands before all other callbacks, where they must not come first.

    At the end of a validation that was cut short, they would take what there is for the whole.
    """

    def __init__(self, requeue: Requeue) -> None:
        self._requeue = requeue

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._requeue.end_of_validation(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._requeue.before_train_batch(batch_idx)


def _validate(trainer: pl.Trainer) -> None:
    """Validate as between two steps."""
    loop, connector = trainer.fit_loop.epoch_loop.val_loop, trainer._logger_connector
    first = connector._first_loop_iter
    trainer.validating = True
    loop.restarting = False
    loop.run()
    loop._has_run = False  # else an epoch that ends here would end before its last batch is counted
    trainer.training = True
    connector._first_loop_iter = first


def _is_over(trainer: pl.Trainer) -> bool:
    """Whether nothing but a validation comes after this step."""
    if trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step:
        return True
    last_epoch = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch + 1
    return last_epoch and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def _heard_by_any(trainer: pl.Trainer) -> int:
    """The number of a signal that a process has heard; 0 where none has."""
    heard = int(SIGNALS.heard or 0)
    if trainer.world_size == 1:
        return heard
    flag = torch.tensor(heard, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return int(flag.item())


def _requeue_or_tell(status: int) -> tuple[str, int]:
    """What to tell, and the exit status: 0 where the job goes on by itself."""
    job = job_id()
    if job is None:
        return "ended as asked. The same command with --resume auto goes on from there", status
    cause = requeue(job)
    if not cause:
        return f"requeued job {job}; it goes on from there when it starts again", 0
    told = f"job {job} is not requeued: {cause}. Submit its script again; with --resume auto it goes on from there"
    return told, status


def _folder(trainer: pl.Trainer) -> Path:
    checkpoint = trainer.checkpoint_callback
    own = checkpoint.dirpath if isinstance(checkpoint, ModelCheckpoint) else None
    return Path(own or Path(trainer.default_root_dir) / "checkpoints")


def _put(beside: Path, path: Path) -> None:
    """Replace a file, or a folder, in one move."""
    if path.is_dir():
        old = path.with_name(f".{path.name}.old")
        _remove(old)
        path.rename(old)
        beside.rename(path)
        _remove(old)
    else:
        os.replace(beside, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _say(text: str) -> None:
    sys.stderr.write(f"coprs: {text}\n")
    sys.stderr.flush()
