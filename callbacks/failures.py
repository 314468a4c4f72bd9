"""When a run fails on one of many processes: who, where and why, and which options help."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    import lightning.pytorch as pl

_SECONDS_AFTER_PARENT = 10.0
_STDERR = 2  # the descriptor: sys.stderr may have none
_AFTERWARDS = ("connection closed by peer", "connection reset by peer", "broken pipe", "remote process exited")
_WAITED = ("timed out", "timeout")
_MEMORY = """\
Out of memory. What makes a step smaller, the first costs the least:
  --model.policy.init_args.gradient_checkpointing true   recomputes activations
  --data.init_args.batch_size 1 --trainer.accumulate_grad_batches N   the same batch in smaller pieces
  --model.objective.init_args.num_generations, …rollout.init_args.max_new_tokens   fewer, shorter completions
  --trainer trainer/fsdp.yaml   divides weights, gradients and optimizer state among the GPUs
  model.policy.init_args.lora   trains adapters only
`coprs estimate --config …` tells what each of them saves before a run."""
_LATER = "Another process of this run ended before; this one only noticed. The first such line in the log is the cause."


class FailureReport(Callback):
    """Prints a failure's first line before anything is taken down, and every process' stack on SIGUSR2.

    A process that raises ends the job: `srun --kill-on-bad-exit=1` ends the others, which otherwise wait for it in a
    collective until the timeout of the strategy (Lightning's: 30 minutes).

    ``scancel --signal=USR2 JOB`` (``kill -USR2 PID`` elsewhere) asks a run that hangs where each process is: the one
    that is not in a collective is the one that the others wait for.

    Where the first process of a machine started the others, they end soon after it, however it ended: one that hangs
    would hold its GPU.
    """

    def __init__(self) -> None:
        self._done = threading.Event()
        self._done.set()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Answer SIGUSR2 with the stacks of all threads."""
        free = signal.getsignal(signal.SIGUSR2) in (signal.SIG_DFL, signal.SIG_IGN)
        if free and threading.current_thread() is threading.main_thread():
            faulthandler.register(signal.SIGUSR2, file=_STDERR, all_threads=True)

        if trainer.local_rank > 0 and self._done.is_set():
            self._done.clear()
            threading.Thread(target=_watch_parent, args=(os.getppid(), self._done), daemon=True).start()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give SIGUSR2 back."""
        faulthandler.unregister(signal.SIGUSR2)
        self._done.set()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say who failed, at which step, and what helps."""
        if not isinstance(exception, Exception):
            return  # Ctrl-C, or a run that was asked to end
        first = (str(exception).strip() or repr(exception)).splitlines()[0]
        who = f"process {trainer.global_rank} of {trainer.world_size} on {socket.gethostname()} (pid {os.getpid()})"
        lines = [f"coprs: {who} failed after step {trainer.global_step}: {type(exception).__name__}: {first}"]
        lines += advice(exception, trainer.world_size)
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()


def _watch_parent(parent: int, done: threading.Event) -> None:
    while os.getppid() == parent:
        if done.wait(1.0):
            return
    if not done.wait(_SECONDS_AFTER_PARENT):
        os.write(_STDERR, f"coprs: pid {os.getpid()} ends, because the process that started it has\n".encode())
        os._exit(1)


def advice(exception: BaseException, world_size: int) -> list[str]:
    """What to do about an exception; nothing where its own words are all there is to say."""
    text = str(exception).lower()
    if isinstance(exception, torch.OutOfMemoryError | MemoryError) or "out of memory" in text:
        return _MEMORY.splitlines()
    if world_size == 1 or not isinstance(exception, RuntimeError):
        return []
    if any(words in text for words in _WAITED):
        return _timeout_lines()
    return [_LATER] if any(words in text for words in _AFTERWARDS) else []


def _timeout_lines() -> list[str]:
    recorder = os.environ.get("TORCH_FR_DUMP_TEMP_FILE") or os.environ.get("TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
    lines = ["This process waited for the others in the collective above until the timeout; one of them did not come."]
    if recorder:
        lines.append(f"NCCL's last collectives of every process: {recorder}*; torchfrtrace --prefix {recorder}")
    job = os.environ.get("SLURM_JOB_ID")
    asks = f"scancel --signal=USR2 {job}" if job else "kill -USR2 PID, for each process,"
    lines.append(f"Next time, while it hangs: {asks} prints where each process is.")
    return lines
