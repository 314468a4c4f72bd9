"""Every family of policies can be taken apart, and so can one with adapters and one in half precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coprs_lightning.explain import Case, explain, region_on_grid, word_gradient
from coprs_lightning.explain.gradients import share_inside
from coprs_lightning.policies import HFPolicy
from coprs_lightning.policies.lora import LoraOptions
from tests.explain.build import QUESTION, THOUGHT, photo, say, target
from tests.parts import small_model, small_policy
from tests.policies.families import FAMILIES, save_family


@pytest.mark.parametrize("family", list(FAMILIES))
def test_words_of_every_family(family: str, tmp_path: Path):
    policy = HFPolicy(model=str(save_family(family, tmp_path))).eval()
    model = small_model(policy=policy)
    say(model, policy.encode_completions([THOUGHT]))
    found = explain(model, photo(), QUESTION, target=target(), leave_out=3)
    written = "".join(word.text for word in found.words)
    assert written.startswith(found.original.completion)
    assert "".join(word.text for word in found.words if word.part == "thought").strip().endswith("square, left.")
    assert QUESTION in "".join(word.text for word in found.prompt)
    assert found.original.present

    case = Case(model, photo(), QUESTION)
    region = region_on_grid(case, torch.from_numpy(target()))
    gradient = word_gradient(case, case.written(), region, [0])
    place = int(gradient.completion.abs().argmax())
    column = len(gradient.prompt) + place

    def share_of(factor: float) -> float:
        def stretch(module, args, output):
            output = output.clone()
            output[0, column] *= factor
            return output

        hook = policy.lm.get_input_embeddings().register_forward_hook(stretch)
        with torch.no_grad():
            output = case.run(case.written())
        hook.remove()
        return share_inside(output.heatmap_logits[0], region, case.inside).item()

    measured = (share_of(1.01) - share_of(0.99)) / 0.02
    assert gradient.completion[place].item() == pytest.approx(measured, rel=0.05, abs=3e-5)
    assert found.words[place].gradient == pytest.approx(gradient.completion[place].item(), rel=1e-3)


@pytest.mark.parametrize("options", [{"lora": LoraOptions()}, {"dtype": "bfloat16"}], ids=["lora", "bfloat16"])
def test_other_weights(options):
    model = small_model(policy=small_policy(**options))
    say(model, model.policy.encode_completions([THOUGHT]))
    found = explain(model, photo(), QUESTION, target=target(), box=(0, 0, 20, 20))
    assert all(word.gradient is not None for word in found.words)
    assert sum(word.gradient != 0 for word in found.words) > 5


def test_all_in_half_precision():
    model = small_model().to(torch.bfloat16)
    say(model, model.policy.encode_completions([THOUGHT]))
    found = explain(model, photo(), QUESTION, target=target(), box=(0, 0, 20, 20))
    assert 0 < found.region_share < 1
    assert abs(found.heatmap_gradient).max() > 0
