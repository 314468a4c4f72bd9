"""Several objects and none, from shards through training to scores and a model that is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml

from coprs_lightning.cli_lightning import run
from coprs_lightning.module import CoprsModule
from datamodules.synthetic.write import write_synthetic
from tests.tiny import write_config


def test_from_shards_to_answers(tiny: Path, tmp_path: Path) -> None:
    none = dict.fromkeys(("train", "val", "test", "generalisation"), 0)
    write_synthetic(tmp_path / "data", several=6, several_val=4, image_size=64, shards=2, **none)
    content = yaml.safe_load(tiny.read_text())
    prompt = {"system": "", "user": "{question}", "completion": "<think> {thought} </think> {tokens}", "num_tokens": 3}
    content["model"]["policy"]["init_args"]["prompt"] = prompt
    content["model"]["aggregator"] = {"class_path": "StandardisedMultiTokenAggregator"}
    content["model"]["validation"] = "teacher_forced"
    content["trainer"]["val_check_interval"] = 2
    content["data"]["init_args"] |= {
        split: str(tmp_path / "data" / folder) for split, folder in (("train", "several"), ("val", "several_val"))
    }
    cli = run(["fit", "--config", str(write_config(tiny, content))])
    scores = cli.trainer.callback_metrics
    assert {"val/none_accuracy", "val/count_accuracy", "val/giou/several", "train/loss/confidence"} <= set(scores)
    assert scores["val/format_rate"] == scores["val/token_rate"] == 1
    assert scores["train/several/merged_fraction"] == 0

    checkpoint = next(Path(cli.trainer.default_root_dir).rglob("last.ckpt"))
    model = CoprsModule.from_checkpoint(checkpoint).model
    assert model.policy.num_tokens == model.aggregator.num_tokens == 3
    with torch.no_grad():
        model.aggregator.confidence_bias.fill_(-100.0)
    batch = next(iter(cli.datamodule.val_dataloader()))
    answer = model.segment(batch.images[0], "each red circle", max_new_tokens=2)
    assert not answer.mask.any()
    assert answer.objects == []
    assert answer.mask.shape == np.asarray(batch.images[0]).shape[1:]
