"""The smallest complete experiment: a config of a few kilobytes of weights, and shards of coloured rectangles."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from coprs_lightning.cli import main
from tests.datamodules.build import make_split

SIDE = 32
"""Frame side of the tiny backbone in pixels."""

POLICY: dict[str, Any] = {
    "class_path": "HFPolicy",
    "init_args": {
        "model": "small_qwen2_5_vl",
        "random_weights": True,
        "prompt": {"system": "", "user": "{question}", "completion": "<think> {thought} </think> <REF_POS>"},
        "config_overrides": {
            "text_config": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "intermediate_size": 32,
                "layer_types": ["full_attention"],
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
            },
            "vision_config": {"depth": 1, "out_hidden_size": 16},
        },
    },
}

MODEL: dict[str, Any] = {
    "policy": POLICY,
    "backbone": {
        "class_path": "TimmBackbone",
        "init_args": {"model_name": "test_resnet", "out_index": 1, "image_size": SIDE},
    },
    "aggregator": {"class_path": "LastTokenAggregator"},
    "heatmap_head": {"class_path": "CrossAttentionHead", "init_args": {"dim": 16}},
    "decoder": {"class_path": "ConvMaskDecoder", "init_args": {"hidden": 8, "depth": 1}},
    "objective": {"class_path": "SupervisedObjective"},
    "optimizer": {"learning_rate": 0.001},
    "generation": {"max_new_tokens": 4},
}

TRAINER: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "max_steps": 2,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def make_data(folder: Path) -> Path:
    """Shards: 8 images to train on in 2 shards, 2 for validation and test each."""
    for split, images, shards in (("train", 8, 2), ("val", 2, 2), ("test", 2, 2)):
        make_split(folder / split, images, num_shards=shards)
    return folder


def tiny_config(data: Path, run: Path) -> dict[str, Any]:
    """The config as plain data.

    Args:
        data: what :func:`make_data` made.
        run: ``trainer.default_root_dir``.
    """
    splits = {split: str(data / split) for split in ("train", "val", "test")}
    config = {
        "trainer": {**TRAINER, "default_root_dir": str(run)},
        "model": MODEL,
        "data": {"class_path": "ShardDataModule", "init_args": {**splits, "batch_size": 4, "shuffle_buffer": 8}},
        "callbacks": {"panels": None},  # half a second each
    }
    return copy.deepcopy(config)


def write_config(path: Path, content: dict[str, Any]) -> Path:
    """Write a config file and return its path."""
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def refused(words: list[str], capsys: pytest.CaptureFixture[str], status: int = 2) -> str:
    """Run a command that must end with ``status``, and return what it wrote to stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(words)
    message = capsys.readouterr().err
    assert caught.value.code == status, message
    return message
