"""The shared base of every swappable part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from coprs_lightning.component import Component, check_positive
from coprs_lightning.heatmap_heads import CrossAttentionHead
from coprs_lightning.importing import ALLOW_ENV


class Part(Component):
    def __init__(self, *, width: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(self, width=width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout()


def test_a_frozen_part_stays_in_eval_mode_without_gradients() -> None:
    part = Part(frozen=True)
    part.freeze_if_asked()
    nn.Sequential(part).train()
    assert not part.training
    assert not part.norm.training
    assert not part.drop.training
    assert not any(p.requires_grad for p in part.parameters())
    assert part.parameter_groups(0.1, "part") == []


def test_a_trained_part_changes_mode() -> None:
    part = Part()
    part.freeze_if_asked()
    assert part.train().norm.training
    assert not part.eval().norm.training


def test_the_learning_rate_is_multiplied() -> None:
    (group,) = Part(lr_multiplier=25.0).parameter_groups(2e-6, "heatmap_head")
    assert group["lr"] == pytest.approx(5e-5)
    assert group["name"] == "heatmap_head"
    assert len(group["params"]) == 2


def test_parameters_without_gradients_are_in_no_group() -> None:
    part = Part()
    part.norm.bias.requires_grad_(False)
    (group,) = part.parameter_groups(1.0, "part")
    assert [id(p) for p in group["params"]] == [id(part.norm.weight)]


def test_negative_multipliers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lr_multiplier must be ≥ 0, got -1; use frozen: true"):
        Part(lr_multiplier=-1)


@pytest.mark.parametrize("width", [0, -2, 1.5, "3"])
def test_sizes_must_be_positive_integers(width: Any) -> None:
    with pytest.raises(ValueError, match=r"Part.width must be a positive integer, got"):
        Part(width=width)


def test_diagnostics_are_given_once_and_hold_no_graph() -> None:
    part = Part()
    part.record("scale", part.norm.weight.sum())
    part.record("rate", 0.5)
    found = part.pop_diagnostics()
    assert {name: float(value) for name, value in found.items()} == {"scale": 3.0, "rate": 0.5}
    assert not found["scale"].requires_grad
    assert part.pop_diagnostics() == {}


def test_a_part_is_saved_and_loaded_alone(tmp_path: Path) -> None:
    head = CrossAttentionHead(query_dim=4, in_channels=3, dim=8, frozen=True)
    head.save(tmp_path / "head.pt")
    again = Component.load(tmp_path / "head.pt")
    assert again.spec == head.spec
    assert not any(p.requires_grad for p in again.parameters())
    query, features = torch.randn(2, 1, 4), torch.randn(2, 3, 5, 5)
    assert torch.equal(again(query, features), head(query, features))


def test_loading_a_part_is_strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_ENV, "tests")
    part = Part()
    torch.save({"spec": part.spec, "state_dict": {}}, tmp_path / "part.pt")
    with pytest.raises(RuntimeError, match="Missing key"):
        Component.load(tmp_path / "part.pt")
