"""Vision tower, projector and language model of every family are trained or left as they are, each on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from coprs_lightning.policies import HFPolicy
from coprs_lightning.policies.loading import language_model, projector, unread_parameters
from tests.parts import photos
from tests.policies.families import FAMILIES, save_family

VISION = {
    "qwen2_5_vl": ["model.visual"],
    "qwen3_vl": ["model.visual"],
    "llava": ["model.vision_tower"],
    "llava_onevision": ["model.vision_tower"],
    "smolvlm": ["model.vision_model"],
}
PROJECTOR = {
    "qwen2_5_vl": ["model.visual.merger"],
    "qwen3_vl": ["model.visual.merger", "model.visual.deepstack_merger_list"],
    "llava": ["model.multi_modal_projector"],
    "llava_onevision": ["model.multi_modal_projector", "model.image_newline"],
    "smolvlm": ["model.connector"],
}
LANGUAGE = {name: ["model.language_model", "lm_head"] for name in FAMILIES} | {
    "smolvlm": ["model.text_model", "lm_head"]
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(family, tmp_path_factory.mktemp(family))


def names(policy: HFPolicy, prefixes: list[str]) -> set[str]:
    found = {
        name
        for name, _ in policy.lm.named_parameters()
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
    }
    assert found
    return found


def readable(policy: HFPolicy) -> set[str]:
    """Names of what some pass reads: LLaVA looks at an inner layer of its tower, or leaves out the norm at its end."""
    unread = {id(parameter) for parameter in unread_parameters(policy.lm)}
    return {name for name, parameter in policy.lm.named_parameters() if id(parameter) not in unread}


def trained(policy: HFPolicy) -> set[str]:
    return {name for name, parameter in policy.lm.named_parameters() if parameter.requires_grad}


def test_all_parts_are_trained_unless_asked(folder: Path) -> None:
    policy = HFPolicy(model=str(folder))
    assert trained(policy) == readable(policy)


@pytest.mark.parametrize(
    "options",
    [
        {"train_vision": False},
        {"train_projector": False},
        {"train_language": False},
        {"train_vision": False, "train_language": False, "train_projector": True},
        {"train_vision": False, "train_projector": False},
    ],
    ids=str,
)
def test_each_part_on_its_own(family: str, folder: Path, options: dict[str, Any]) -> None:
    policy = HFPolicy(model=str(folder), **options)
    expected = readable(policy)
    if not options.get("train_vision", True):
        expected -= names(policy, VISION[family])
    if "train_projector" in options:
        part = names(policy, PROJECTOR[family])
        expected = expected | part if options["train_projector"] else expected - part
    if not options.get("train_language", True):
        expected -= names(policy, LANGUAGE[family])
    assert trained(policy) == expected
    learning = {id(p) for group in policy.parameter_groups(1.0, "policy") for p in group["params"]}
    assert learning == {id(p) for name, p in policy.lm.named_parameters() if name in expected}


def test_a_projector_learns_through_a_frozen_language_model(family: str, folder: Path) -> None:
    policy = HFPolicy(model=str(folder), train_vision=False, train_projector=True, train_language=False)
    prompts = policy.encode_prompts(photos((60, 50)), ["a cat"])
    output = policy(prompts, policy.encode_completions(["so"]))
    output.hidden[output.token_mask].pow(2).sum().backward()
    found = {name for name, p in policy.lm.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert found
    assert found <= names(policy, PROJECTOR[family])


def test_models_without_the_parts_are_refused() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = Qwen2ForCausalLM(Qwen2Config(vocab_size=8, num_key_value_heads=1, **sizes))
    with pytest.raises(ValueError, match=r"train_projector is set, but Qwen2ForCausalLM has no projector"):
        projector(text)
    with pytest.raises(ValueError, match=r"train_language: false, but Qwen2ForCausalLM has no language model beside"):
        language_model(text)


def test_lora_trains_the_row_of_the_token_whatever_is_frozen(folder: Path) -> None:
    from coprs_lightning.policies import LoraOptions

    policy = HFPolicy(model=str(folder), lora=LoraOptions(rank=2), train_language=False)
    assert isinstance(policy.adapters, nn.Module)
    assert policy.adapters.rows.requires_grad
    assert not any(torch.is_tensor(p) and p.requires_grad and "lora" not in n for n, p in policy.lm.named_parameters())
