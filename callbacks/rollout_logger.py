"""What reinforcement learning samples: completions, their rewards, and the masks they lead to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.drawing import draw_panel, render, save_pixels
from callbacks.files import append_json_lines
from callbacks.rollout_samples import Sample, extremes, groups, table
from callbacks.step_outputs import original_logits
from coprs_lightning.structures import NO_PRIOR_LOGIT, RolloutRecord

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from matplotlib.figure import Figure

COMPLETIONS = "completions.jsonl"
_RULE = 4  # pixels between two prompts


class RolloutLogger(Callback):
    """Writes sampled completions with their rewards, and pictures of the best and the worst of a group.

    Below ``<run folder>/rollouts``: ``completions.jsonl`` with one JSON object a completion (``step``, ``key``,
    ``question``, ``completion``, ``rank`` in its group, ``reward``, its parts as ``rewards``, ``advantage``, ``length``
    in tokens, ``truncated``, ``well_formed``, ``has_token``), and ``step=<step>.png``. TensorBoard gets the picture and
    a table where it is a logger. ``step`` counts optimizer steps, the one on this rollout included.

    A run without rollouts (supervised training) writes nothing, nor does ``fast_dev_run``, and only the first process
    writes. A resumed run appends; where it repeats steps, the later lines are those that count. A new run in the folder
    of an old one writes to ``rollouts-2``. What cannot be drawn or written costs a warning, never the run.

    Args:
        every_n_steps: optimizer steps between two records; the first step of every start is recorded too.
        prompts: how many of the batch's first prompts are recorded.
        folder: where to, relative to ``trainer.default_root_dir``.

    Raises:
        ValueError: for a number below 1.
    """

    def __init__(self, *, every_n_steps: int = 50, prompts: int = 2, folder: str = "rollouts") -> None:
        for name, value in (("every_n_steps", every_n_steps), ("prompts", prompts)):
            if value < 1:
                raise ValueError(f"RolloutLogger.{name} must be ≥ 1, got {value}. To write nothing, set it to null.")
        self.every_n_steps = every_n_steps
        self.prompts = prompts
        self.folder = folder
        self._name: str | None = None
        self._last = 0
        self._started = False

    # -- which folder ------------------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """Lets several loggers with different folders work in one run."""
        return self._generate_state_key(folder=self.folder)

    def state_dict(self) -> dict[str, Any]:
        """The folder, so that a resumed run goes on in the one that its checkpoint belongs to."""
        return {"name": self._name}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in the same folder."""
        self._name = state_dict["name"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the folder of an earlier fit."""
        self._name = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the folder and start counting steps."""
        self._last, self._started = trainer.global_step, False
        if self._name is None:
            self._name = _folder_name(Path(trainer.default_root_dir), self.folder, resumed=trainer.global_step > 0)

    # -- when and what -----------------------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the rollout when one is due.

        Raises:
            TypeError: for a training step that hands over something else as a rollout.
        """
        record = outputs.get("rollout") if isinstance(outputs, dict) else None
        if record is None or trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        if not isinstance(record, RolloutRecord):
            raise TypeError(
                f"the training step of {type(pl_module).__name__} returned a {type(record).__name__} as 'rollout', so "
                "no completion can be recorded. Return a RolloutRecord, or leave 'rollout' out."
            )
        step = trainer.global_step
        # by crossing multiples and not by hitting them: a batch may take several steps (manual optimization); with
        # accumulated gradients, batches on which no step was taken see the step of before
        crossed = step // self.every_n_steps > self._last // self.every_n_steps
        if step > self._last and (crossed or not self._started):
            self._last, self._started = step, True
            self._record(trainer, record, step, pl_module.image_size)  # type: ignore[arg-type]

    def _record(self, trainer: pl.Trainer, record: RolloutRecord, step: int, frame: int) -> None:
        root = Path(trainer.default_root_dir) / (self._name or self.folder)
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        sampled: list[list[Sample]] = []
        with _warned("completions", step):
            sampled = groups(record, self.prompts)
        flat = [sample for group in sampled for sample in group]
        if not flat:
            return
        with _warned("completions", step):
            append_json_lines(root / COMPLETIONS, [sample.line(step) for sample in flat])
        with _warned("table", step):
            for board in boards:
                board.add_text("train/rollouts", table(flat), step)
        picture = _picture(record, sampled, step, frame)
        if picture is None:
            return
        with _warned("picture", step):
            save_pixels(picture, root / f"step={step:06d}.png")
        with _warned("picture", step):
            for board in boards:
                board.add_image("train/rollouts", picture, step, dataformats="HWC")


def _picture(record: RolloutRecord, sampled: list[list[Sample]], step: int, frame: int) -> np.ndarray | None:
    """Panels below each other, (h, w, 3) uint8; ``None`` where not one could be drawn."""
    rows: list[np.ndarray] = []
    for group in sampled:
        panels = []
        for heading, sample in extremes(group):
            with _warned(f"picture of {sample.key}", step):
                panels.append(render(_panel(record, sample, f"{heading} · {sample.key[:60]} · step {step}", frame)))
        if panels and rows:
            rows.append(np.full((_RULE, rows[0].shape[1], 3), 170, dtype=np.uint8))
        rows += panels
    return np.concatenate(rows) if rows else None


def _panel(record: RolloutRecord, sample: Sample, title: str, frame: int) -> Figure:
    batch, chosen = record.batch, slice(sample.index, sample.index + 1)

    def logits(values: Tensor) -> Tensor:
        if not sample.present:
            return torch.full(batch.original_masks[sample.prompt].shape, NO_PRIOR_LOGIT)
        return original_logits(values[:, chosen], batch, sample.prompt, frame).cpu()

    ignore = batch.original_ignores[sample.prompt]
    return draw_panel(
        batch.images[sample.prompt].permute(1, 2, 0).cpu().numpy(),
        logits(record.heatmap_logits).sigmoid().numpy(),
        (logits(record.mask_logits) > 0).numpy(),
        batch.original_masks[sample.prompt].cpu().numpy(),
        sample.question,
        sample.completion,
        title,
        ignore=None if ignore is None else ignore.cpu().numpy(),
        notes=sample.notes(),
        num_tokens=record.num_tokens,
    )


@contextmanager
def _warned(what: str, step: int) -> Iterator[None]:
    """Turn an error into a warning that says what is missing."""
    try:
        yield
    except Exception as error:
        rank_zero_warn(
            f"the rollout's {what} of step {step} could not be written ({type(error).__name__}: {error}); "
            "the run goes on."
        )


def _folder_name(root: Path, folder: str, *, resumed: bool) -> str:
    """``folder``, or with a number where an earlier run used it; a resumed run goes on in the newest."""
    used = 0
    while (root / _numbered(folder, used + 1)).exists():
        used += 1
    return _numbered(folder, max(1, used) if resumed else used + 1)


def _numbered(folder: str, number: int) -> str:
    return folder if number == 1 else f"{folder}-{number}"
