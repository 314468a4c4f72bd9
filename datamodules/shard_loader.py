"""The loader that Lightning iterates: a sized, resumable, epoch-aware wrapper of torch's ``DataLoader``."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from typing import Any, Literal

from torch.utils.data import DataLoader

from coprs_lightning.structures import SegmentationBatch
from datamodules.buffers import Lent
from datamodules.collate import PackedBatch
from datamodules.shard_stream import ShardStream

logger = logging.getLogger(__name__)

_SECONDS_AFTER_SIGTERM = 120

StartMethod = Literal["fork", "spawn", "forkserver"]


class EpochCounter:
    """What Lightning finds as the loader's ``sampler`` and tells the epoch before each one starts."""

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Remember the epoch that the next iteration belongs to."""
        self.epoch = epoch


class ShardLoader:
    """Batches of one split for one rank.

    Workers start at the first ``next``, not at ``iter``: Lightning calls ``iter`` before it has told the epoch.

    The loader is stateful: a checkpoint inside an epoch holds the epoch and how many of its examples all ranks together
    have had. The order of an epoch depends on neither ranks nor workers nor the batch size, so a resumed run goes on
    with the next example whatever these are now, and none is repeated or lost.

    Args:
        stream: what the workers read.
        identity: what the order of examples depends on, as plain data; a checkpoint of other data is not followed.
        persistent_workers: keep the workers between epochs.
        start_method: how workers start; ``None`` is the platform's default.
        reshuffle: follow the trainer's epochs; ``False`` repeats epoch 0 (Lightning's ``overfit_batches``).
        on_resume: called with the number of batches that count as done in the epoch that goes on.
    """

    def __init__(
        self,
        stream: ShardStream,
        *,
        identity: dict[str, Any] | None = None,
        persistent_workers: bool = False,
        start_method: StartMethod | None = None,
        reshuffle: bool = True,
        on_resume: Callable[[int], None] | None = None,
    ) -> None:
        workers = stream.options.num_workers
        self.stream = stream
        self.identity = identity or {}
        self._epochs = EpochCounter()
        if reshuffle:
            self.sampler = self._epochs
        self._resume = (0, 0)
        self._done = (0, 0)
        self._on_resume = on_resume
        self._lent = Lent(stream.busy)
        self._loader: DataLoader[PackedBatch] = DataLoader(
            stream,
            batch_size=None,  # the stream yields batches
            num_workers=workers,
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # without batching it gets the item itself
            persistent_workers=persistent_workers and workers > 0,
            multiprocessing_context=start_method if workers else None,
            worker_init_fn=_outlive_signals,
        )

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank; 1 in evaluation where the rank has none.

        Lightning skips the evaluation loop of a rank whose loader is empty, and the others would wait for it forever
        where metrics are gathered.
        """
        if self.stream.options.shuffle is not None:
            return len(self.stream.sizes(0))
        return max(1, len(self.stream.batches(0, 0)))

    def __iter__(self) -> Iterator[SegmentationBatch]:
        epoch = self._epochs.epoch
        resume_epoch, done = self._resume
        self._resume = (0, 0)
        if resume_epoch != epoch or done >= self.stream.epoch_examples:
            done = 0
        self.stream.position[0], self.stream.position[1] = epoch, done
        steps = self.stream.sizes(done).sum(1).tolist() if self.stream.options.shuffle is not None else []
        if not self._loader.persistent_workers:  # new workers have new buffers
            self.stream.busy.zero_()
            self._lent = Lent(self.stream.busy)
        batches = iter(self._loader)
        try:
            for step, batch in enumerate(batches):
                self._lent.give_back()
                self._lent.add(batch.pixels, batch.worker, batch.slot)
                done += steps[step] if steps else 0
                self._done = (epoch, self.stream.epoch_examples if step == len(steps) - 1 else done)
                unpacked = batch.unpack()
                del batch  # else it would keep its buffer until the next one is there
                yield unpacked
                del unpacked
        finally:
            # left to the garbage collector, workers are waited for 5 s each when an error's traceback holds them
            shutdown = getattr(batches, "_shutdown_workers", None)
            if shutdown is not None and not self._loader.persistent_workers:
                shutdown()

    @property
    def bad_images(self) -> int:
        """Unusable images that this rank has met so far."""
        return self.stream.bad.count

    def state_dict(self) -> dict[str, Any]:
        """Epoch and examples handed out over all ranks, for Lightning's checkpoints; the same on every rank."""
        options = self.stream.options
        steps = {"batch_size": options.batch_size, "world_size": options.world_size}
        return {"epoch": self._done[0], "examples": self._done[1], **steps, "identity": self.identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the examples of a checkpoint if the next iteration is of the same epoch."""
        epoch, done = int(state["epoch"]), int(state["examples"])
        options = self.stream.options
        if done and state["identity"] != self.identity:
            changed = sorted(
                name
                for name in {*state["identity"], *self.identity}
                if state["identity"].get(name) != self.identity.get(name)
            )
            logger.warning(
                "The checkpoint was made with other training data or another order of it (%s changed), so its position "
                "in epoch %d means nothing here: the epoch starts from its beginning.",
                ", ".join(changed),
                epoch,
            )
            done = 0
        self._resume = self._done = (epoch, done)
        now = (options.world_size, options.batch_size)
        before = (state["world_size"], state["batch_size"])
        if 0 < done < self.stream.epoch_examples and now != before:
            logger.warning(
                "Resuming epoch %d after %d of its %d examples, the last position that all %d rank(s) shared; batches "
                "are cut anew from there for %d rank(s) with %d examples each (before: %d with %d).",
                epoch,
                done,
                self.stream.epoch_examples,
                before[0],
                *now,
                *before,
            )
        if self._on_resume is not None:
            left = len(self.stream.sizes(done)) if done < self.stream.epoch_examples else 0
            self._on_resume(len(self) - left)


def _outlive_signals(worker: int) -> None:
    """Let a worker go on when SLURM signals every process of a job: the main process still needs its batches to save.

    SIGTERM also ends workers that hang at the end of a run, so it is only put off.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_SECONDS_AFTER_SIGTERM))


def _as_it_is(batch: PackedBatch) -> PackedBatch:
    return batch
