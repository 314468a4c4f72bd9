from __future__ import annotations

import pytest
import torch

from coprs_lightning.rl.references.fingerprint import SAMPLES, fingerprint


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return {"matrix": torch.randn(40, 30), "bias": torch.randn(5), "scale": torch.randn(()), "none": torch.zeros(0)}


def test_equal_weights_have_equal_digests_in_any_order_and_memory_layout(weights):
    again = {name: tensor.clone() for name, tensor in reversed(weights.items())}
    again["matrix"] = again["matrix"].t().contiguous().t()
    assert fingerprint(again.items()) == fingerprint(weights.items())


def test_a_wider_type_changes_nothing(weights):
    half = {name: tensor.bfloat16() for name, tensor in weights.items()}
    wide = {name: tensor.float() for name, tensor in half.items()}
    assert fingerprint(half.items()) == fingerprint(wide.items()) != fingerprint(weights.items())


@pytest.mark.parametrize("name", ["matrix", "bias", "scale"])
def test_every_tensor_counts(weights, name):
    changed = {**weights, name: weights[name] * 1.0001}
    assert fingerprint(changed.items()) != fingerprint(weights.items())


def test_names_and_shapes_count(weights):
    assert fingerprint({**weights, "matrix": weights["matrix"].view(30, 40)}.items()) != fingerprint(weights.items())
    renamed = {f"a{name}": tensor for name, tensor in weights.items()}
    assert fingerprint(renamed.items()) != fingerprint(weights.items())


def test_samples_reach_from_the_first_to_the_last_part_of_a_large_tensor():
    large = torch.zeros(10 * SAMPLES + 3)
    before = fingerprint([("large", large)])
    changed = [
        i for i in range(len(large)) if fingerprint([("large", large.index_fill(0, torch.tensor(i), 1.0))]) != before
    ]
    assert len(changed) == SAMPLES
    assert changed[0] == 0
    assert changed[-1] >= len(large) - 12
