"""A policy is rebuilt from its assets alone, whatever it was built from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from coprs_lightning.policies import HFPolicy
from coprs_lightning.spec import build
from tests.parts import photos, small_policy

CASES: dict[str, dict[str, Any]] = {
    "shipped": {},
    "overrides": {"config_overrides": {"text_config": {"num_hidden_layers": 1}}},
    "pixels": {"min_pixels": 3136, "max_pixels": 6272},
    "half": {"dtype": "bfloat16"},
}


def rebuilt(policy: HFPolicy, folder: Path) -> HFPolicy:
    policy.save_assets(folder / "policy")
    spec = policy.portable_spec(folder / "policy")
    assert spec["init_args"]["model"] == "policy"
    spec["init_args"]["model"] = str(folder / "policy")
    again: HFPolicy = build(spec)
    return again


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_weights_fit_strictly_and_outputs_are_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    policy = small_policy(**options)
    again = rebuilt(policy, tmp_path)
    again.load_state_dict(policy.state_dict())
    assert again.lm.dtype == policy.lm.dtype
    assert again.concentration_id == policy.concentration_id
    images = photos((40, 60), (200, 30))
    ours, theirs = (each.encode_prompts(images, ["the red one", "x"]) for each in (policy, again))
    assert torch.equal(ours.input_ids, theirs.input_ids)
    assert torch.equal(ours.vision["pixel_values"], theirs.vision["pixel_values"])
    written = policy.encode_completions(["it is red", "y"])
    assert torch.equal(policy.eval()(ours, written).hidden, again.eval()(theirs, written).hidden)


def test_a_policy_of_a_folder_is_rebuilt_without_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    first = small_policy()
    first.lm.save_pretrained(source)
    first.processor.save_pretrained(source)
    policy = HFPolicy(model=str(source))
    policy.save_assets(tmp_path / "kept" / "policy")
    shutil.rmtree(source)
    spec = policy.portable_spec(None)
    spec["init_args"]["model"] = str(tmp_path / "kept" / "policy")
    again: HFPolicy = build(spec)
    again.load_state_dict(policy.state_dict())
    assert again.tokenizer.get_vocab() == policy.tokenizer.get_vocab()


def test_the_assets_are_text_and_hold_no_weights() -> None:
    assets = small_policy().assets()
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= set(assets)
    assert not [name for name in assets if name.endswith((".safetensors", ".bin"))]
    assert sum(map(len, assets.values())) < 2_000_000
