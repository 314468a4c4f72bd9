"""Who takes part in the streaming benchmark: plain decoding, the released code's layout, and the DataModule."""

from __future__ import annotations

import importlib
import io
import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from datamodules.shard_datamodule import ShardDataModule


class PlainDecoding:
    """The limit: JPEGs in memory are decoded to (H, W, 3) arrays, and nothing else.

    Args:
        images: the encoded images, one an example, repeated where several examples ask about one.
        processes: how many share them; 0 decodes in this process.
    """

    def __init__(self, images: Sequence[bytes], processes: int) -> None:
        self._images = images
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for number in range(processes):
            here, there = multiprocessing.Pipe()
            process = multiprocessing.Process(
                target=_decode_when_told, args=(images[number::processes], there), daemon=True
            )
            process.start()
            self._pipes.append(here)
            self._processes.append(process)

    def __call__(self) -> int:
        """Decode everything once; the number of images."""
        if not self._pipes:
            return _decode(self._images)
        for pipe in self._pipes:
            pipe.send(True)
        return sum(pipe.recv() for pipe in self._pipes)

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send(False)
        for process in self._processes:
            process.join()


def _decode_when_told(images: Sequence[bytes], pipe: Connection) -> None:
    while pipe.recv():
        pipe.send(_decode(images))


def _decode(images: Sequence[bytes]) -> int:
    for content in images:
        with Image.open(io.BytesIO(content)) as image:
            np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return len(images)


class Streaming:
    """Epochs of ``ShardDataModule.train_dataloader()``.

    Args:
        folder: the split.
        workers: loader workers; they stay between epochs, so that their start is not timed.
        options: of :class:`ShardDataModule`.
    """

    def __init__(self, folder: Path, workers: int, **options: Any) -> None:
        data = ShardDataModule(train=str(folder), num_workers=workers, persistent_workers=workers > 0, **options)
        data.setup("fit")
        self._loader = data.train_dataloader()
        self._epoch = -1
        self.images = 0

    def __call__(self) -> int:
        """Read an epoch; the number of examples. ``images`` counts those that were decoded for it."""
        self._epoch += 1
        self._loader.sampler.set_epoch(self._epoch)
        examples, self.images = 0, 0
        for batch in self._loader:
            examples += len(batch.keys)
            self.images += len({image.data_ptr() for image in batch.images})
        return examples

    def close(self) -> None:
        """End the workers."""
        del self._loader


class ReleasedRows(Dataset):  # type: ignore[type-arg]
    """The released code's rows, read as its training reads them: of two masks it keeps the one of 256 × 256.

    Args:
        path: what :func:`tests.benchmarks.streaming_data.write_released` returned.
    """

    def __init__(self, path: Path) -> None:
        self._rows: Any
        self._by_arrow = path.suffix == ".arrow"
        if self._by_arrow:
            import pyarrow

            with pyarrow.memory_map(str(path)) as source:
                self._rows = pyarrow.ipc.open_file(source).read_all()
        else:
            import datasets

            self._rows = datasets.load_from_disk(str(path))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self._rows.slice(number, 1).to_pylist()[0] if self._by_arrow else self._rows[number]
        image = Image.open(io.BytesIO(row["image"]["bytes"])) if self._by_arrow else row["image"]
        return {
            "image": torch.from_numpy(np.array(image.convert("RGB"))),
            "mask": torch.as_tensor(row["mask_float_256"], dtype=torch.float32),
            "text": row["text"][0],
            "features": torch.load(row["embed_path"], weights_only=True),
        }


class Released:
    """Epochs over :class:`ReleasedRows`.

    Args:
        path: what :func:`tests.benchmarks.streaming_data.write_released` returned.
        workers: loader workers; they stay between epochs.
        batch_size: rows a batch.
    """

    def __init__(self, path: Path, workers: int, batch_size: int) -> None:
        self.rows = ReleasedRows(path)
        self._loader = DataLoader(
            self.rows,
            batch_size=batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_collate,
        )

    def __call__(self) -> int:
        """Read an epoch; the number of examples."""
        return sum(len(batch["text"]) for batch in self._loader)

    def close(self) -> None:
        """End the workers."""
        del self._loader


def _collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    columns["features"] = torch.stack(columns["features"])
    return columns


def released_library() -> str | None:
    """With what the released layout is read here; ``None`` where neither library is installed."""
    found = []
    for name in ("datasets", "pyarrow"):
        try:
            found.append(f"{name} {importlib.import_module(name).__version__}")
        except ImportError:
            continue
    return ", ".join(found) or None
