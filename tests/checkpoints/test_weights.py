"""Weights go to their places exactly once: tied ones, those without memory, and none that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from coprs_lightning.checkpoints.tensors import INDEX, WEIGHTS, read_weights, save_weights
from coprs_lightning.checkpoints.weights import load_strictly, untied
from coprs_lightning.weightless import without_weights


class Tied(nn.Module):
    """Two names of one weight, a norm's running statistics, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight
        self.norm.bias.requires_grad_(False)
        self.register_buffer("frequencies", torch.linspace(0, 1, 4).double(), persistent=False)


@pytest.fixture
def saved(tmp_path: Path) -> Tied:
    model = Tied()
    model.norm.running_mean.normal_()
    save_weights(model, tmp_path)
    return model


def test_tied_weights_are_saved_once_and_tied_again(saved: Tied, tmp_path: Path) -> None:
    weights = read_weights(tmp_path)
    assert "embedding.weight" in weights
    assert "head.weight" not in weights
    with without_weights():
        model = Tied()
    assert model.head.weight.is_meta
    assert not model.frequencies.is_meta
    load_strictly(model, weights, source="there")
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.norm.running_mean, saved.norm.running_mean)
    assert torch.equal(model.frequencies, saved.frequencies)
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in saved.parameters()]
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    other = Tied()
    other.load_state_dict(untied(other, weights))
    assert torch.equal(other.head.weight, saved.head.weight)


def test_modules_built_later_have_memory_again() -> None:
    with pytest.raises(RuntimeError), without_weights():
        raise RuntimeError
    assert not nn.Linear(2, 2).weight.is_meta


def test_a_type_is_for_saved_floating_point_weights(saved: Tied, tmp_path: Path) -> None:
    model = Tied()
    load_strictly(model, read_weights(tmp_path), source="there", dtype=torch.bfloat16)
    assert model.head.weight.dtype == torch.bfloat16
    assert model.norm.num_batches_tracked.dtype == torch.int64
    assert model.frequencies.dtype == torch.float64


@pytest.mark.usefixtures("saved")
def test_every_misfit_is_named(tmp_path: Path) -> None:
    weights = read_weights(tmp_path)
    weights["extra"] = torch.ones(1)
    weights["norm.weight"] = torch.ones(5)
    del weights["norm.bias"]
    with pytest.raises(ValueError, match="the weights in there are not those of the model") as caught:
        load_strictly(Tied(), weights, source="there")
    text = str(caught.value)
    assert "\n  missing: norm.bias" in text
    assert "\n  unexpected: extra" in text
    assert "\n  of another shape: norm.weight is (5,), the model's (4,)" in text
    with pytest.raises(ValueError, match="… and 5 more"):
        load_strictly(Tied(), {f"extra.{i}": torch.ones(1) for i in range(6)}, source="there")


def test_large_weights_are_divided_among_files(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
    save_weights(model, tmp_path, largest_file=2500)
    assert not (tmp_path / WEIGHTS).exists()
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 2
    read = read_weights(tmp_path)
    assert all(torch.equal(read[name], value) for name, value in model.state_dict().items())
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(ValueError, match=r"lacks model-00002-of-00002.safetensors, which model.safetensors.index.json"):
        read_weights(tmp_path)
    (tmp_path / INDEX).write_text("[]")
    with pytest.raises(ValueError, match="is no index of weights"):
        read_weights(tmp_path)


def test_a_weight_in_two_files_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
    save_weights(model, tmp_path, largest_file=2500)
    first, second = sorted(tmp_path.glob("model-*"))
    second.write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=r"is in two files of model.safetensors.index.json"):
        read_weights(tmp_path)


def test_pickles_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no model.safetensors: there is nothing to load"):
        read_weights(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only pytorch_model.bin: reading such files can run code"):
        read_weights(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        read_weights(tmp_path)
