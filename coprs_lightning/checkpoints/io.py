"""Reading sharded checkpoints where nothing is sharded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from coprs_lightning.checkpoints.sharded import is_sharded_checkpoint, read_sharded


class AnyCheckpointIO(TorchCheckpointIO):
    """Lightning's files, and sharded checkpoints put together in memory, as plain data."""

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The content; of a sharded checkpoint as one file would have it."""
        if is_sharded_checkpoint(path):
            return read_sharded(Path(path), optimizers=True)
        return super().load_checkpoint(path, *args, **kwargs)
