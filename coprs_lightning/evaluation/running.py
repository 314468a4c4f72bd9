"""Runs a model over splits with Lightning's Trainer: one process or several, the same numbers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException

from coprs_lightning.commands import CommandError
from coprs_lightning.evaluation.examples import ExampleRecord, example_records
from coprs_lightning.evaluation.panels import Candidates
from coprs_lightning.evaluation.plan import Plan, Split
from coprs_lightning.evaluation.unusable import unusable_keys
from coprs_lightning.model import CoprsModel
from coprs_lightning.spec import build, constructor_hints
from coprs_lightning.structures import SegmentationBatch
from datamodules.shard_index import ShardError, Unit


@dataclass(frozen=True)
class Settings:
    """How splits are evaluated; all of it is told in the results.

    Attributes:
        units: what one example is, one or both.
        batch_size: examples a batch. Batches are the same whatever the number of processes; another size pads prompts
            otherwise, which changes the last digits of what the model computes.
        max_new_tokens: longest completion.
        num_workers: loader processes a rank.
        limit_examples: use only so many examples of each split.
        max_bad_fraction: share of unusable images that is left out instead of refused.
        panels: pictures of each kind (best, worst, random) for each split.
        seed: of the bootstrap and of the random panels.
        resamples: of the bootstrap.
    """

    units: tuple[Unit, ...]
    batch_size: int
    max_new_tokens: int
    num_workers: int = 0
    limit_examples: int | None = None
    max_bad_fraction: float = 0.0
    panels: int = 4
    seed: int = 0
    resamples: int = 1000

    @property
    def asked(self) -> Unit:
        """The unit that the model is run on: every target's first expression is among its expressions."""
        return "expression" if "expression" in self.units else "target"


@dataclass
class SplitRun:
    """What came of one split.

    Attributes:
        split: the split.
        records: examples of each unit, sorted by key.
        unusable: keys of the examples of each unit that could not be read.
        candidates: examples to draw.
    """

    split: Split
    records: dict[Unit, list[ExampleRecord]]
    unusable: dict[Unit, list[str]]
    candidates: Candidates


class EvaluationModule(pl.LightningModule):
    """Answers every question by greedy decoding and scores the answers at the images' own size.

    Args:
        model: in eval mode.
        settings: limits, panels and seed.
        prefixed: see :func:`~.examples.example_records`.
        advance: called with the number of examples after every batch.
    """

    def __init__(
        self, model: CoprsModel, settings: Settings, *, prefixed: bool, advance: Callable[[int], None]
    ) -> None:
        super().__init__()
        self.model = model
        self.max_new_tokens = settings.max_new_tokens
        self.prefixed = prefixed
        self.records: list[ExampleRecord] = []
        self.candidates = Candidates(settings.panels, settings.seed)
        self._advance = advance

    def test_step(self, batch: SegmentationBatch, batch_idx: int) -> None:
        """Answer and score one batch."""
        prompts = self.model.policy.encode_prompts(batch.images, batch.questions)
        completions = self.model.policy.generate(prompts, max_new_tokens=self.max_new_tokens, temperature=0.0)
        output = self.model(batch, prompts, completions)
        records = example_records(batch, output, self.model.image_size, prefixed=self.prefixed)
        self.records += records
        self.candidates.add(records, batch, output, self.model.image_size)
        self._advance(len(batch))


def make_trainer(*, accelerator: str, devices: int, precision: str | None, folder: Path) -> pl.Trainer:
    """A Trainer that evaluates; what the DataModule has to report goes to ``folder``.

    Raises:
        CommandError: where the machine has no such devices.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        for part in ("utilities.rank_zero", "utilities.distributed"):
            logging.getLogger(f"{name}.{part}").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", r".*LeafSpec.*is deprecated")
    warnings.filterwarnings("ignore", r".*srun.*command is available.*")
    try:
        return pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            precision=precision,  # type: ignore[arg-type]  # any spelling; Lightning names the ones there are
            default_root_dir=str(folder),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise CommandError(
            f"--accelerator {accelerator} --devices {devices} cannot be used: {str(error).strip().splitlines()[0]}"
        ) from error


def passes(plan: Plan, settings: Settings) -> int:
    """Examples that a model has to answer in all."""
    limit = settings.limit_examples
    counts = [split.examples(settings.asked) for split in plan.splits]
    return sum(count if limit is None else min(limit, count) for count in counts)


def run_splits(
    model: CoprsModel, plan: Plan, settings: Settings, trainer: pl.Trainer, advance: Callable[[int], None]
) -> Iterator[SplitRun]:
    """Evaluate one split after the other; every process gets all examples of all processes.

    Raises:
        CommandError: for data that cannot be read, examples that are missing, or too little memory.
    """
    world = trainer.world_size
    for split in plan.splits:
        module = EvaluationModule(
            model, settings, prefixed=len(split.folders) > 1, advance=lambda count: advance(count * world)
        )
        datamodule = build(_reader(plan, split, settings, model.image_size))
        with _explained(settings):
            trainer.test(module, datamodule=datamodule, verbose=False)
        yield _collected(split, settings, module)


def _reader(plan: Plan, split: Split, settings: Settings, image_size: int) -> dict[str, Any]:
    from coprs_lightning.importing import import_class

    options = {
        **plan.data["init_args"],
        **dict.fromkeys(("train", "val")),
        "test": list(split.folders),
        "eval_unit": settings.asked,
        "eval_batch_size": settings.batch_size,
        "num_workers": settings.num_workers,
        "max_bad_fraction": settings.max_bad_fraction,
        "limit_examples": settings.limit_examples,
        "image_size": image_size,
    }
    taken = constructor_hints(import_class(plan.data["class_path"]))
    return {
        "class_path": plan.data["class_path"],
        "init_args": {name: value for name, value in options.items() if name in taken},
    }


@contextmanager
def _explained(settings: Settings) -> Iterator[None]:
    try:
        yield
    except ShardError as error:
        text = str(error).replace("data.init_args.max_bad_fraction", "--max-bad-fraction")
        raise CommandError(f"{text} Nothing was written: no example is dropped unasked.") from error
    except torch.OutOfMemoryError as error:
        raise CommandError(
            f"--batch-size {settings.batch_size} is too much for the memory of the device: lower it."
        ) from error


def _collected(split: Split, settings: Settings, module: EvaluationModule) -> SplitRun:
    """All examples of all processes, checked for completeness, for every unit asked for."""
    found = sorted(_of_all_processes(module.records), key=lambda record: record.key)
    candidates = replace_all(module.candidates, _of_all_processes(module.candidates.kept()))
    twice = [one.key for one, other in pairwise(found) if one.key == other.key]
    if twice:
        raise CommandError(
            f"split {split.name} gave example {twice[0]!r} twice: its keys are not unique. Convert it anew."
        )
    expected = split.examples(settings.asked)
    expected = expected if settings.limit_examples is None else min(expected, settings.limit_examples)
    missing = []
    if len(found) < expected:
        missing = unusable_keys(split, settings.asked, {record.key for record in found}, settings.limit_examples)
        if settings.max_bad_fraction == 0:
            raise CommandError(
                f"split {split.name} gave {len(found)} of its {expected} examples, without {', '.join(missing[:5])}: "
                "no example is dropped unasked. Convert the split again, or allow some with --max-bad-fraction."
            )
    records: dict[Unit, list[ExampleRecord]] = {}
    unusable: dict[Unit, list[str]] = {}
    for unit in settings.units:
        same = unit == settings.asked
        records[unit] = found if same else [_as_target(one) for one in found if _is_first(one.key)]
        unusable[unit] = missing if same else [_target_of(key) for key in missing if _is_first(key)]
    return SplitRun(split, records, unusable, candidates)


def replace_all(candidates: Candidates, kept: list[Any]) -> Candidates:
    """The best, worst and random ones among those of all processes."""
    merged = Candidates(candidates.count, candidates.seed)
    merged.take(kept)
    return merged


def _is_first(key: str) -> bool:
    return key.rsplit("/", 1)[-1] == "0"


def _target_of(key: str) -> str:
    return key.rsplit("/", 1)[0]


def _as_target(record: ExampleRecord) -> ExampleRecord:
    return replace(record, key=_target_of(record.key))


def _of_all_processes(items: list[Any]) -> list[Any]:
    if not (dist.is_available() and dist.is_initialized()):
        return items
    gathered: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, items)
    return [item for part in gathered for item in part]
