"""The DataModule that reads splits of webdataset shards (the folder form is in :mod:`datamodules.shard_writer`)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from coprs_lightning.spec import Recorded
from datamodules.augmentations.apply import augment
from datamodules.augmentations.base import Augmentation
from datamodules.collate import Packer
from datamodules.locations import expand, is_remote
from datamodules.shard_cache import ShardCache
from datamodules.shard_index import ShardIndex, Unit, read_index
from datamodules.shard_loader import ShardLoader, StartMethod
from datamodules.shard_plan import ExampleTable, Shuffle, example_table
from datamodules.shard_reader import Expression
from datamodules.shard_stream import ShardStream, StreamOptions

_STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}
_REQUIRED = {"fit": "train", "validate": "val", "test": "test", "predict": "test"}
_REPORT = "unusable_samples.jsonl"


class ShardDataModule(Recorded, LightningDataModule):
    """Streams splits of shards into :class:`coprs_lightning.structures.SegmentationBatch`.

    Training: the order of an epoch follows from ``(seed, epoch)`` alone, whatever the number of ranks, workers and
    examples a batch. Every rank gets the same number of batches, and every example is in exactly one of them (the last
    ones may be smaller). A run that stops inside an epoch goes on with the next example, see
    :class:`~datamodules.shard_loader.ShardLoader`.

    Evaluation: every example comes exactly once over all ranks and workers, in a fixed order and in the same batches;
    ranks may get uneven numbers of batches, even none, so metrics must be gathered as states, not averaged by batch.

    An unusable sample (broken image, malformed mask …) is skipped, named in a warning and written to
    ``unusable_samples.jsonl`` in the run's folder; a damaged shard, or one that holds anything but data, stops the run.

    A split is given by its folder: a path or a URL (``http(s)://``, ``s3://``, ``gs://``, ``hf://``; fsspec's packages
    for them are installed beside), or one of its shards. Braces and wildcards name several
    (``data/refcoco_unc/{testA,testB}``, ``data/*/train``), and so does a list; they are read as one. Remote shards are
    kept in a cache on the local disk.

    Args:
        train: the training split, or several; or ``{split: weight}`` to mix splits in other proportions than their
            sizes. With weights an epoch is as long as all splits together, and a split with a large share comes several
            times an epoch.
        val: the same for validation, without weights.
        test: the same for testing and prediction.
        batch_size: training examples a batch and rank.
        eval_batch_size: the same in evaluation; ``None`` takes ``batch_size``.
        num_workers: loader processes a rank.
        persistent_workers: keep loader processes between epochs (costs their memory during validation).
        start_method: how loader processes start (``fork``, ``spawn`` or ``forkserver``); ``None`` is the platform's.
        unit: training examples are ``target`` (one expression each) or ``expression`` (all of them).
        eval_unit: the same in evaluation; a target's ``first`` expression stands for it there.
        expression: which expression stands for a training target: ``random`` (anew each epoch) or ``first``.
        shuffle_buffer: training examples that are shuffled with one another: shards come in a random order, and those
            of a stretch that holds so many examples are mixed. Remote shards of a stretch must fit into the cache.
        questions_together: training questions about one image that are kept in one batch; the backbone then encodes the
            image once for all of them, and the model has to tell its objects apart. 1 shuffles all questions freely.
        drop_last: leave out the rest of a training epoch that does not fill a batch on every rank.
        augmentations: changes of training examples, one after the other; none by default.
        seed: of order, shuffle, random expressions and augmentations.
        image_size: side of the frame in pixels; the command line links it from the model's backbone.
        max_bad_fraction: the run stops when more than this share of a rank's images is unusable. With few images that
            means the first one: a share of 0.01 forgives nothing below 100 images.
        limit_examples: use only so many examples of each split, spread over its shards.
        cache_dir: where remote shards are kept; ``None`` is ``coprs_lightning/shards`` in the user's cache folder.
        cache_gigabytes: size of the cache; the shards that were not used for the longest time make room.
        retries: attempts after the first where a remote fails, each after twice the wait.
    """

    def __init__(
        self,
        *,
        train: str | list[str] | dict[str, float] | None = None,
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
        drop_last: bool = False,
        augmentations: list[Augmentation] | None = None,
        seed: int = 0,
        image_size: int = 1024,
        max_bad_fraction: float = 0.01,
        limit_examples: int | None = None,
        cache_dir: str | None = None,
        cache_gigabytes: float = 50.0,
        retries: int = 5,
    ) -> None:
        super().__init__()
        # a rank without a batch in evaluation; Lightning refuses that unless told otherwise
        self.allow_zero_length_dataloader_with_multiple_devices = True
        _check_at_least(1, batch_size=batch_size, shuffle_buffer=shuffle_buffer, image_size=image_size)
        _check_at_least(1, questions_together=questions_together)
        _check_at_least(1, eval_batch_size=eval_batch_size, limit_examples=limit_examples)
        _check_at_least(0, num_workers=num_workers, seed=seed, retries=retries)
        if not 0 <= max_bad_fraction < 1:
            raise ValueError(f"data.init_args.max_bad_fraction must be in [0, 1), got {max_bad_fraction}.")
        if cache_gigabytes <= 0:
            raise ValueError(f"data.init_args.cache_gigabytes must be positive, got {cache_gigabytes}.")
        self.weights = _weights(train)
        self.splits = {"train": _listed(train), "val": _listed(val), "test": _listed(test)}
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
        self.drop_last = drop_last
        self.augmentations = list(augmentations or [])
        self.seed = seed
        self.image_size = image_size
        self.max_bad_fraction = max_bad_fraction
        self.limit_examples = limit_examples
        self.cache = ShardCache(None if cache_dir is None else Path(cache_dir), int(cache_gigabytes * 1e9), retries)
        self._indexes: dict[str, list[ShardIndex]] = {}
        self._shares: list[float] | None = None

    @property
    def split_records(self) -> dict[str, list[dict[str, str]]]:
        """Folder, name and checksum of the index of every split that was set up: what a run was trained on."""
        return {
            split: [{"folder": index.location, "name": index.name, "sha256": index.sha256} for index in indexes]
            for split, indexes in self._indexes.items()
        }

    @property
    def split_features(self) -> dict[str, list[dict[str, Any] | None]]:
        """For every split that was set up, what its feature maps were computed with; ``None`` for none."""
        return {split: [index.features for index in indexes] for split, indexes in self._indexes.items()}

    def setup(self, stage: str) -> None:
        """Read and check the indexes of the splits that ``stage`` needs.

        Raises:
            ValueError: a split that the stage cannot do without is not named.
            FileNotFoundError: a folder, index or shard is missing; the option is named.
            ShardError: an index is malformed, or a shard is truncated.
        """
        required = _REQUIRED[stage]
        if not self.splits[required]:
            raise ValueError(
                f"{stage} needs data but data.init_args.{required} names none. Set it to the folder of a split, "
                f"for example --data.init_args.{required} /data/reasonseg/{required}."
            )
        for split in _STAGES[stage]:
            found = [self._read(split, name) for name in self.splits[split]]
            self._indexes[split] = [index for indexes in found for index in indexes]
            if split == "train" and self.weights is not None:
                self._shares = _shares(self.weights, found)

    def _read(self, split: str, name: str) -> list[ShardIndex]:
        try:
            return _merged([read_index(location, retries=self.cache.retries) for location in expand(name)])
        except FileNotFoundError as error:
            raise FileNotFoundError(f"data.init_args.{split}: {error}") from error

    def train_dataloader(self) -> ShardLoader:
        """Batches for training."""
        rank, world_size = self._place()
        table = example_table(self._indexes["train"], self.unit, self.limit_examples)
        self._check_cache(table)
        weights = None if self._shares is None else tuple(self._shares)
        shuffle = Shuffle(self.seed, self.shuffle_buffer, self.questions_together, weights)
        options = StreamOptions(
            unit=self.unit,
            expression=self.expression,
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
            num_workers=self.num_workers,
            max_bad_fraction=self.max_bad_fraction,
            seed=self.seed,
            shuffle=shuffle,
            drop_last=self.drop_last,
            augment=partial(augment, self.augmentations) if self.augmentations else None,
            report=self._report(),
        )
        overfit = self.trainer is not None and getattr(self.trainer, "overfit_batches", 0) > 0
        return ShardLoader(
            ShardStream(table, options, self.cache, Packer(self.image_size)),
            identity={
                "splits": [
                    [index.name, len(index.shards), index.examples(self.unit)] for index in self._indexes["train"]
                ],
                "weights": None if weights is None else list(weights),
                "unit": self.unit,
                "limit_examples": self.limit_examples,
                "seed": self.seed,
                "shuffle_buffer": self.shuffle_buffer,
                "questions_together": self.questions_together,
            },
            persistent_workers=self.persistent_workers,
            start_method=self.start_method,
            reshuffle=not overfit,
            on_resume=self._count_as_done,
        )

    def val_dataloader(self) -> ShardLoader | list[ShardLoader]:
        """Every validation example once; an empty list where no validation split is named."""
        return self._evaluation("val") if self.splits["val"] else []

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
            report=self._report(),
        )
        table = example_table(self._indexes[split], self.eval_unit, self.limit_examples)
        return ShardLoader(
            ShardStream(table, options, self.cache, Packer(self.image_size)),
            persistent_workers=self.persistent_workers,
            start_method=self.start_method,
            reshuffle=False,
        )

    def _place(self) -> tuple[int, int]:
        """Rank and world size, from the trainer: loader workers cannot ask ``torch.distributed`` under spawn."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _report(self) -> Path | None:
        if self.trainer is None or is_remote(self.trainer.default_root_dir):
            return None
        return Path(self.trainer.default_root_dir) / _REPORT

    def _count_as_done(self, batches: int) -> None:
        """Tell the trainer how many batches of the epoch that goes on are done, as batches are cut now."""
        if self.trainer is None:
            return
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        more = batches - progress.ready
        for stage in ("ready", "started", "processed", "completed"):  # the last may be one behind, and stays so
            setattr(progress, stage, getattr(progress, stage) + more)

    def _check_cache(self, table: ExampleTable) -> None:
        """Refuse a cache that the shards being mixed do not fit into: they would be fetched again and again."""
        remote = sorted((shard for shard in table.shards if is_remote(shard.url)), key=lambda shard: -shard.bytes)
        needed, examples = 0, 0
        for shard in remote:
            needed += shard.bytes
            examples += shard.examples(self.unit)
            if examples >= self.shuffle_buffer:
                break
        if needed > self.cache.max_bytes:
            raise ValueError(
                f"data.init_args.cache_gigabytes={self.cache.max_bytes / 1e9:g} cannot hold the {needed / 1e9:.3g} GB "
                f"of remote shards whose examples are mixed (shuffle_buffer={self.shuffle_buffer}): they would be "
                "fetched again and again. Raise it, or lower data.init_args.shuffle_buffer."
            )


def _listed(splits: str | list[str] | dict[str, float] | None) -> list[str]:
    if splits is None:
        return []
    return [splits] if isinstance(splits, str | Path) else list(splits)


def _weights(train: str | list[str] | dict[str, float] | None) -> list[float] | None:
    if not isinstance(train, dict):
        return None
    for name, weight in train.items():
        if not weight > 0:
            raise ValueError(
                f"data.init_args.train gives {name!r} the weight {weight}; weights must be positive. Leave out a split "
                "that shall not be trained on."
            )
    return [float(weight) for weight in train.values()]


def _shares(weights: list[float], found: list[list[ShardIndex]]) -> list[float]:
    """The weight of every split; a pattern's is shared by the splits that it names, in proportion to their size."""
    shares = []
    for weight, indexes in zip(weights, found, strict=True):
        total = sum(index.images for index in indexes)
        shares += [weight * index.images / total for index in indexes]
    return shares


def _merged(indexes: list[ShardIndex]) -> list[ShardIndex]:
    """Single shards of one split (``{00000..00003}.tar``) are one split."""
    merged: dict[str, ShardIndex] = {}
    for index in indexes:
        merged.setdefault(index.location, replace(index, shards=[])).shards.extend(index.shards)
    return list(merged.values())


def _check_at_least(minimum: int, **options: int | None) -> None:
    for name, value in options.items():
        if value is not None and value < minimum:
            raise ValueError(f"data.init_args.{name} must be ≥ {minimum}, got {value}.")
