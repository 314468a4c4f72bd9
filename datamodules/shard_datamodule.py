"""The DataModule that reads splits of webdataset shards (the folder form is in :mod:`datamodules.shard_writer`)."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningDataModule

from coprs_lightning.spec import Recorded
from datamodules.collate import FrameCollator
from datamodules.shard_index import ShardIndex, Unit, read_index
from datamodules.shard_loader import ShardLoader, StartMethod
from datamodules.shard_plan import portions
from datamodules.shard_reader import Expression
from datamodules.shard_stream import ShardStream, StreamOptions

_STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}
_REQUIRED = {"fit": "train", "validate": "val", "test": "test", "predict": "test"}


class ShardDataModule(Recorded, LightningDataModule):
    """Streams splits of shards into :class:`coprs_lightning.structures.SegmentationBatch`.

    Training: order and shuffle follow from ``(seed, epoch)`` alone, and every rank gets the same number of batches,
    ``examples // (batch_size × ranks)`` but at least one; a rank whose shards hold fewer examples repeats some.

    Evaluation: every example comes exactly once over all ranks and workers, in a fixed order; ranks may get uneven
    numbers of batches, even none, so metrics must be gathered as states, not averaged by batch.

    An unusable sample (broken image, malformed mask …) is skipped and named in a warning; a damaged shard, or one that
    holds anything but data, stops the run.

    Args:
        train: folder of the training split, or several that are read as one.
        val: the same for validation.
        test: the same for testing and prediction.
        batch_size: training examples a batch and rank.
        eval_batch_size: the same in evaluation; ``None`` takes ``batch_size``.
        num_workers: loader processes a rank; training needs at least ranks × workers shards.
        persistent_workers: keep loader processes between epochs (costs their memory during validation).
        start_method: how loader processes start (``fork``, ``spawn`` or ``forkserver``); ``None`` is the platform's.
        unit: training examples are ``target`` (one expression each) or ``expression`` (all of them).
        eval_unit: the same in evaluation; a target's ``first`` expression stands for it there.
        expression: which expression stands for a training target: ``random`` (anew each epoch) or ``first``.
        shuffle_buffer: training examples held for shuffling in each worker; they are held undecoded.
        questions_together: training questions about one image that are kept in one batch; the backbone then encodes the
            image once for all of them, and the model has to tell its objects apart. 1 shuffles all questions freely.
        seed: of order, shuffle and random expressions.
        image_size: side of the frame in pixels; the command line links it from the model's backbone.
        max_bad_fraction: the run stops when more than this share of a rank's images is unusable. With few images that
            means the first one: a share of 0.01 forgives nothing below 100 images.
        limit_examples: use only so many examples of each split, spread over its shards.
    """

    def __init__(
        self,
        *,
        train: str | list[str] | None = None,
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        persistent_workers: bool = False,
        start_method: StartMethod | None = None,
        unit: Unit = "target",
        eval_unit: Unit = "target",
        expression: Expression = "random",
        shuffle_buffer: int = 1000,
        questions_together: int = 1,
        seed: int = 0,
        image_size: int = 1024,
        max_bad_fraction: float = 0.01,
        limit_examples: int | None = None,
    ) -> None:
        super().__init__()
        # a rank without a shard gives no batch in evaluation; Lightning refuses that unless told otherwise
        self.allow_zero_length_dataloader_with_multiple_devices = True
        _check_at_least(1, batch_size=batch_size, shuffle_buffer=shuffle_buffer, image_size=image_size)
        _check_at_least(1, questions_together=questions_together)
        _check_at_least(1, eval_batch_size=eval_batch_size, limit_examples=limit_examples)
        _check_at_least(0, num_workers=num_workers, seed=seed)
        if not 0 <= max_bad_fraction < 1:
            raise ValueError(f"data.init_args.max_bad_fraction must be in [0, 1), got {max_bad_fraction}.")
        self.folders = {"train": _listed(train), "val": _listed(val), "test": _listed(test)}
        self.batch_size = batch_size
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.num_workers = num_workers
        self.persistent_workers = persistent_workers
        self.start_method = start_method
        self.unit: Unit = unit
        self.eval_unit: Unit = eval_unit
        self.expression: Expression = expression
        self.shuffle_buffer = shuffle_buffer
        self.questions_together = questions_together
        self.seed = seed
        self.image_size = image_size
        self.max_bad_fraction = max_bad_fraction
        self.limit_examples = limit_examples
        self._indexes: dict[str, list[ShardIndex]] = {}

    @property
    def split_folders(self) -> dict[str, list[Path]]:
        """Folders of every split, for the record of what a run was trained on."""
        return {split: [Path(folder) for folder in folders] for split, folders in self.folders.items()}

    def setup(self, stage: str) -> None:
        """Read and check the indexes of the splits that ``stage`` needs.

        Raises:
            ValueError: a split that the stage cannot do without is not named.
            FileNotFoundError: a folder, index or shard is missing; the option is named.
            ShardError: an index is malformed, or a shard is truncated.
        """
        required = _REQUIRED[stage]
        if not self.folders[required]:
            raise ValueError(
                f"{stage} needs data but data.init_args.{required} names none. Set it to the folder of a split, "
                f"for example --data.init_args.{required} /data/reasonseg/{required}."
            )
        for split in _STAGES[stage]:
            self._indexes[split] = [self._read(split, folder) for folder in self.folders[split]]

    def _read(self, split: str, folder: str) -> ShardIndex:
        try:
            return read_index(folder)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"data.init_args.{split}: {error}") from error

    def train_dataloader(self) -> ShardLoader:
        """Batches for training.

        Raises:
            ValueError: fewer shards than readers.
        """
        rank, world_size = self._place()
        shards = portions(self._indexes["train"], self.unit, self.limit_examples)
        readers = world_size * max(1, self.num_workers)
        if len(shards) < readers:
            limited = "" if self.limit_examples is None else f" (with limit_examples={self.limit_examples})"
            raise ValueError(
                f"training has {len(shards)} shards{limited} for {readers} readers ({world_size} ranks × "
                f"{max(1, self.num_workers)} workers), so some readers would have nothing to read. Lower "
                f"data.init_args.num_workers, or convert the split again with at least {readers} shards (the "
                "converter's --shards)."
            )
        examples = sum(shard.examples for shard in shards)
        options = StreamOptions(
            unit=self.unit,
            expression=self.expression,
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
            num_workers=self.num_workers,
            max_bad_fraction=self.max_bad_fraction,
            shuffle_buffer=self.shuffle_buffer,
            questions_together=self.questions_together,
            seed=self.seed,
            batches=max(1, examples // (self.batch_size * world_size)),
        )
        overfit = self.trainer is not None and getattr(self.trainer, "overfit_batches", 0) > 0
        return ShardLoader(
            ShardStream(shards, options, FrameCollator(self.image_size)),
            persistent_workers=self.persistent_workers,
            start_method=self.start_method,
            reshuffle=not overfit,
        )

    def val_dataloader(self) -> ShardLoader | list[ShardLoader]:
        """Every validation example once; an empty list where no validation split is named."""
        return self._evaluation("val") if self.folders["val"] else []

    def test_dataloader(self) -> ShardLoader:
        """Every test example once."""
        return self._evaluation("test")

    def predict_dataloader(self) -> ShardLoader:
        """The test split."""
        return self._evaluation("test")

    def _evaluation(self, split: str) -> ShardLoader:
        rank, world_size = self._place()
        options = StreamOptions(
            unit=self.eval_unit,
            expression="first",
            batch_size=self.eval_batch_size,
            rank=rank,
            world_size=world_size,
            num_workers=self.num_workers,
            max_bad_fraction=self.max_bad_fraction,
        )
        shards = portions(self._indexes[split], self.eval_unit, self.limit_examples)
        return ShardLoader(
            ShardStream(shards, options, FrameCollator(self.image_size)),
            persistent_workers=self.persistent_workers,
            start_method=self.start_method,
            reshuffle=False,
        )

    def _place(self) -> tuple[int, int]:
        """Rank and world size, from the trainer: loader workers cannot ask ``torch.distributed`` under spawn."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size


def _listed(folders: str | list[str] | None) -> list[str]:
    if folders is None:
        return []
    return [folders] if isinstance(folders, str | Path) else list(folders)


def _check_at_least(minimum: int, **options: int | None) -> None:
    for name, value in options.items():
        if value is not None and value < minimum:
            raise ValueError(f"data.init_args.{name} must be ≥ {minimum}, got {value}.")
