"""The shipped models of the paper's size, built without weights: every parameter is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from coprs_lightning.cli_lightning import look
from coprs_lightning.estimate import measure
from tests.conftest import REPO
from tests.published import PARAMETERS, SAM_DECODER, SAM_ENCODERS, write_policy, write_sam

MODELS_FOLDER = REPO / "configs" / "model"
MODELS = sorted(MODELS_FOLDER.glob("coprs_*.yaml"))


UNREAD = {"llava-hf/llava-1.5-7b-hf": 12 * 1024**2 + 13 * 1024 + 2 * 1024}
"""LLaVA reads the states before the last layer of its tower; that layer and the norm after it are not trained."""


def test_every_public_model_has_its_config() -> None:
    named = {yaml.safe_load(file.read_text())["policy"]["init_args"]["model"] for file in MODELS}
    assert named == set(PARAMETERS)


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.stem)
def test_parameters_are_the_published_ones(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = yaml.safe_load(file.read_text())["policy"]["init_args"]["model"]
    write_policy(name, tmp_path)
    write_sam(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = look(["--config", str(REPO / "configs" / "coprs.yaml"), "--model", str(file)]).model.model
    assert all(p.is_meta for p in model.parameters())
    sizes = {part.name: part for part in measure(model).parts}
    assert sizes["policy"].total == PARAMETERS[name]
    assert sizes["policy"].trainable == PARAMETERS[name] - UNREAD.get(name, 0)
    assert sizes["policy"].bytes == 2 * PARAMETERS[name]
    assert (sizes["backbone"].total, sizes["backbone"].trainable) == (SAM_ENCODERS["huge"], 0)
    # q: a linear layer to 256; k: 1 × 1 over 256 channels; two 3 × 3 convolutions over four heads
    fuser = 4 * 4 * 9 + 4 + 4 * 9 + 1
    assert sizes["heatmap_head"].total == 256 * model.policy.hidden_size + 256 * 256 + fuser
    assert sizes["aggregator"].total == 0


@pytest.mark.parametrize(
    ("overlay", "size", "expected"),
    [
        ("sam_vit_b", "base", SAM_ENCODERS["base"]),
        ("sam_vit_l", "large", SAM_ENCODERS["large"]),
        ("features", "huge", 0),
    ],
)
def test_backbones_are_swapped_by_one_overlay(
    overlay: str, size: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_policy("Qwen/Qwen2.5-VL-7B-Instruct", tmp_path)
    write_sam(tmp_path, size)
    monkeypatch.chdir(tmp_path)
    configs = [REPO / "configs" / "coprs.yaml", MODELS_FOLDER / "backbone" / f"{overlay}.yaml"]
    cli = look([word for config in configs for word in ("--config", str(config))])
    backbone = cli.model.model.backbone
    sizes = {part.name: part for part in measure(cli.model.model).parts}
    assert (sizes["backbone"].total, sizes["backbone"].trainable) == (expected, 0)
    assert (backbone.out_channels, backbone.stride, backbone.image_size, backbone.frozen) == (256, 16, 1024, True)
    assert sizes["decoder"].total == SAM_DECODER
