"""Pictures of a few answers: the best, the worst and some at random."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from coprs_lightning.evaluation.examples import ExampleRecord
from coprs_lightning.geometry import restore
from coprs_lightning.structures import SegmentationBatch, SegmentationOutput


@dataclass(frozen=True)
class Candidate:
    """An example with its pictures.

    Attributes:
        record: the example.
        image: (H, W, 3) uint8 RGB.
        heatmap: (H, W) float32 in [0, 1].
        mask: (H, W) bool, predicted.
        truth: (H, W) bool.
        ignore: (H, W) bool or ``None``.
        slots: concentration tokens asked for.
    """

    record: ExampleRecord
    image: np.ndarray
    heatmap: np.ndarray
    mask: np.ndarray
    truth: np.ndarray
    ignore: np.ndarray | None
    slots: int


class Candidates:
    """Keeps the pictures of the few examples that may be drawn, whatever order they come in.

    Args:
        count: of each kind.
        seed: of the random ones, which depend on seed and key alone.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self._by_key: dict[str, Candidate] = {}
        self._records: dict[str, ExampleRecord] = {}

    def add(
        self, records: Sequence[ExampleRecord], batch: SegmentationBatch, output: SegmentationOutput, frame: int
    ) -> None:
        """Look at a scored batch; pixels are copied of those that are kept only."""
        self._records |= {record.key: record for record in records}
        chosen = self._chosen()
        heatmap, mask = output.union()
        for row, record in enumerate(records):
            if record.key in chosen:
                slots = output.present.shape[1]
                self._by_key[record.key] = _candidate(record, batch, row, heatmap, mask, frame, slots)
        self._drop(chosen)

    def take(self, candidates: Sequence[Candidate]) -> None:
        """Add those of another process."""
        for one in candidates:
            self._by_key[one.record.key] = one
            self._records[one.record.key] = one.record
        self._drop(self._chosen())

    def kept(self) -> list[Candidate]:
        """All that are kept."""
        return [*self._by_key.values()]

    def sorted(self) -> dict[str, list[Candidate]]:
        """``best``, ``worst`` and ``random``, in order."""
        return {kind: [self._by_key[key] for key in keys] for kind, keys in self._kinds().items()}

    def _kinds(self) -> dict[str, list[str]]:
        records = self._records.values()
        worst = sorted(records, key=lambda one: (one.scores["iou"], one.key))
        best = sorted(records, key=lambda one: (-one.scores["iou"], one.key))
        drawn = sorted(records, key=lambda one: hashlib.sha256(f"{self.seed}/{one.key}".encode()).digest())
        kinds = {"best": best, "worst": worst, "random": drawn}
        return {kind: [one.key for one in listed[: self.count]] for kind, listed in kinds.items()}

    def _chosen(self) -> set[str]:
        return {key for keys in self._kinds().values() for key in keys}

    def _drop(self, chosen: set[str]) -> None:
        self._by_key = {key: one for key, one in self._by_key.items() if key in chosen}
        self._records = {key: one for key, one in self._records.items() if key in chosen}


def draw_panels(candidates: Candidates, folder: Path) -> list[Path]:
    """Draw what was kept as ``<folder>/<kind>-<n>-<key>.png``."""
    from callbacks.drawing import draw_panel, save_panel

    written = []
    for kind, chosen in candidates.sorted().items():
        for number, one in enumerate(chosen, start=1):
            record = one.record
            figure = draw_panel(
                one.image,
                one.heatmap,
                one.mask,
                one.truth,
                record.question,
                record.completion,
                f"{kind} {number} · {record.key} · IoU {record.scores['iou']:.3f}",
                ignore=one.ignore,
                notes=[("Written", record.written_thought)] if record.written_thought else [],
                num_tokens=one.slots,
            )
            path = folder / f"{kind}-{number:02d}-{safe_name(record.key)}.png"
            save_panel(figure, path)
            written.append(path)
    return written


def safe_name(text: str) -> str:
    """``text`` as (part of) a file name."""
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", text)[:80]


def _candidate(
    record: ExampleRecord,
    batch: SegmentationBatch,
    row: int,
    heatmap: Tensor,
    mask: Tensor,
    frame: int,
    slots: int,
) -> Candidate:
    ignore = batch.original_ignores[row]
    return Candidate(
        record=record,
        image=batch.images[row].permute(1, 2, 0).cpu().numpy().copy(),
        heatmap=_at_original_size(heatmap, batch, row, frame).sigmoid().cpu().numpy(),
        mask=(_at_original_size(mask, batch, row, frame) > 0).cpu().numpy(),
        truth=batch.original_masks[row].cpu().numpy().copy(),
        ignore=None if ignore is None else ignore.cpu().numpy().copy(),
        slots=slots,
    )


def _at_original_size(logits: Tensor, batch: SegmentationBatch, row: int, frame: int) -> Tensor:
    """Logits (B, 1, h, w) over the frames → (H, W) of one example at its image's size; the mask is ``> 0``."""
    height, width = batch.original_masks[row].shape
    valid_height, valid_width = batch.valid_sizes[row].tolist()
    return restore(logits[row], (int(valid_height), int(valid_width)), (height, width), frame)[0]
