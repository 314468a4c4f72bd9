"""What weights tell of their past."""

from __future__ import annotations

import torch
from torch import nn

from callbacks.smoke_weights import look_at, untouched
from coprs_lightning.backbones import TimmBackbone
from tests.callbacks.smoking import stir
from tests.parts import FRAME, small_policy


def test_parts_as_they_are_built_are_untouched_and_trained_ones_are_not() -> None:
    for part in (
        small_policy(),
        TimmBackbone(model_name="test_resnet", image_size=FRAME, out_index=1),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)),
    ):
        assert untouched(part) is True
        stir(part)
        assert untouched(part) is False


def test_statistics_of_batches_tell_too() -> None:
    part = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    part(torch.randn(4, 2))
    assert untouched(part) is False


def test_one_optimizer_step_touches() -> None:
    part = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 1))
    part(torch.randn(4, 2)).square().sum().backward()
    torch.optim.SGD(part.parameters(), lr=1e-3).step()
    assert untouched(part) is False


def test_parts_without_norms_do_not_tell() -> None:
    assert untouched(nn.Linear(2, 2)) is None
    assert untouched(nn.GroupNorm(1, 2, affine=False)) is None


def test_zero_and_spoiled_weights_are_found() -> None:
    part = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    seen = look_at("decoder", part, finite=True)
    assert (seen.zero, seen.spoiled, seen.frozen, seen.loading) == (False, (), False, None)
    for values in part.parameters():
        nn.init.zeros_(values).requires_grad_(False)
    assert (look_at("decoder", part).zero, look_at("decoder", part).frozen) == (True, True)
    part[1].weight[0, 0] = float("inf")
    assert look_at("decoder", part, finite=True).spoiled == ("1.weight",)
    assert look_at("decoder", part).spoiled == ()
    nothing = look_at("backbone", nn.Identity())
    assert (nothing.zero, nothing.frozen) == (False, False)


def test_reports_of_several_loaders_are_added() -> None:
    part = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    part[0].load_report = {"loaded": 2, "missing": 0, "unexpected": 1}
    part[1].load_report = {"loaded": 3, "missing": 1}
    assert look_at("policy", part).loading == {"loaded": 5, "missing": 1, "unexpected": 1}
