"""The loader that Lightning iterates: a sized, resumable, epoch-aware wrapper of torch's ``DataLoader``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from torch.utils.data import DataLoader

from coprs_lightning.structures import SegmentationBatch
from datamodules.shard_stream import ShardStream

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

    The loader is stateful: a checkpoint inside an epoch holds the epoch and the batches done, and a resumed run
    continues with the next batch (exactly so for the same ranks, workers and batch size; unusable images among the
    batches done shift the position by as many examples).

    Args:
        stream: what the workers read.
        persistent_workers: keep the workers between epochs.
        start_method: how workers start; ``None`` is the platform's default.
        reshuffle: follow the trainer's epochs; ``False`` repeats epoch 0 (Lightning's ``overfit_batches``).
    """

    def __init__(
        self,
        stream: ShardStream,
        *,
        persistent_workers: bool = False,
        start_method: StartMethod | None = None,
        reshuffle: bool = True,
    ) -> None:
        workers = stream.options.num_workers
        self.stream = stream
        self._epochs = EpochCounter()
        if reshuffle:
            self.sampler = self._epochs
        self._resume = (0, 0)
        self._done = (0, 0)
        self._loader: DataLoader[SegmentationBatch] = DataLoader(
            stream,
            batch_size=None,  # the stream yields batches
            num_workers=workers,
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # without batching it gets the item itself
            persistent_workers=persistent_workers and workers > 0,
            multiprocessing_context=start_method if workers else None,
        )

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank; 1 in evaluation where the rank has none.

        Lightning skips the evaluation loop of a rank whose loader is empty, and the others would wait for it forever
        where metrics are gathered.
        """
        options = self.stream.options
        if options.batches is not None:
            return options.batches
        loads = [sum(shard.examples for shard in shards) for shards in self.stream.deal(0)]
        return max(1, sum(-(-load // options.batch_size) for load in loads))

    def __iter__(self) -> Iterator[SegmentationBatch]:
        epoch = self._epochs.epoch
        resume_epoch, done = self._resume
        self._resume = (0, 0)
        if resume_epoch != epoch or done >= len(self):
            done = 0
        self.stream.position[0], self.stream.position[1] = epoch, done
        batches = iter(self._loader)
        try:
            for batch in batches:
                done += 1
                self._done = (epoch, done)
                yield batch
        finally:
            # left to the garbage collector, workers are waited for 5 s each when an error's traceback holds them
            shutdown = getattr(batches, "_shutdown_workers", None)
            if shutdown is not None and not self._loader.persistent_workers:
                shutdown()

    @property
    def bad_images(self) -> int:
        """Unusable images that this rank met in the current epoch."""
        return int(self.stream.bad.sum())

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batches handed out, for Lightning's checkpoints; the same on every rank."""
        return {"epoch": self._done[0], "batches": self._done[1]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the batches of a checkpoint if the next iteration is of the same epoch."""
        self._resume = self._done = (int(state["epoch"]), int(state["batches"]))


def _as_it_is(batch: SegmentationBatch) -> SegmentationBatch:
    return batch
