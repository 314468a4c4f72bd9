"""Two-process run that ``test_shard_datamodule`` starts: fit, validate, test; every rank writes what it saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lightning.pytorch import Trainer

from datamodules.shard_datamodule import ShardDataModule
from tests.datamodules.probe import Probe


def main(split: str, single: str, output: str) -> None:
    data = ShardDataModule(train=split, val=split, test=single, batch_size=2, num_workers=1, image_size=16)
    probe = Probe()
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(probe, datamodule=data)
    trainer.test(probe, datamodule=data, verbose=False)
    Path(output, f"{trainer.global_rank}.json").write_text(json.dumps(probe.seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
