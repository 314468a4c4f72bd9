"""A training that may be killed: every rank appends what it sees to a file of its own, before each step."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.shard_datamodule import ShardDataModule
from tests.datamodules.probe import Probe


class Recording(Probe):
    """Writes the keys of every batch at once, and dies at a step."""

    def __init__(self, output: Path, die_at: int) -> None:
        super().__init__()
        self.output = output
        self.die_at = die_at

    def training_step(self, batch, batch_idx):
        if self.global_step == self.die_at and self.global_rank == self.trainer.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        line = {"epoch": self.current_epoch, "step": self.global_step, "keys": batch.keys}
        with (self.output / f"{self.die_at}-{self.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return super().training_step(batch, batch_idx)


def main(split: str, output: str, workers: str, start_method: str, die_at: str, checkpoint: str = "") -> None:
    data = ShardDataModule(
        train=split,
        batch_size=3,
        image_size=16,
        num_workers=int(workers),
        start_method=None if start_method == "default" else start_method,
        cache_dir=f"{output}/cache",
    )
    keep = ModelCheckpoint(dirpath=output, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    trainer = Trainer(
        default_root_dir=output,
        accelerator="cpu",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        strategy="ddp" if "LOCAL_WORLD_SIZE" in os.environ else "auto",
        max_epochs=2,
        callbacks=[keep],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Recording(Path(output), int(die_at)), datamodule=data, ckpt_path=checkpoint or None)


if __name__ == "__main__":
    main(*sys.argv[1:])
