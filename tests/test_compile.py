"""The option ``compile`` of heatmap heads and decoders."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from coprs_lightning.component import CompilableComponent, Component
from coprs_lightning.decoders import ConvMaskDecoder, SamMaskDecoder, UpsampleDecoder
from coprs_lightning.heatmap_heads import CosineHead, CrossAttentionHead, FiLMHead, LinearFuseCrossAttentionHead
from tests.conftest import REPO

Build = Callable[..., CompilableComponent]


def head(cls: type) -> Build:
    return lambda **options: cls(query_dim=12, in_channels=8, dim=16, **options)


def sam(**options: object) -> CompilableComponent:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "mlp_dim": 32, "mask_input_channels": 8}
    return SamMaskDecoder(in_channels=8, **sizes, **options)


PARTS: dict[str, Build] = {
    "cross attention": head(CrossAttentionHead),
    "linear fuse": head(LinearFuseCrossAttentionHead),
    "film": head(FiLMHead),
    "cosine": head(CosineHead),
    "conv decoder": lambda **options: ConvMaskDecoder(in_channels=8, hidden=8, depth=1, **options),
    "upsample decoder": lambda **options: UpsampleDecoder(in_channels=8, **options),
    "sam decoder": sam,
}


def inputs(part: CompilableComponent, batch: int = 2) -> tuple:
    features = torch.randn(batch, 8, 4, 4)
    if hasattr(part, "query_dim"):
        return torch.randn(batch, 2, 12), features
    return features, 3 * torch.randn(batch, 2, 16, 16), torch.tensor([[32, 20]] * batch), 32


@pytest.mark.parametrize("build", PARTS.values(), ids=PARTS)
def test_names_of_weights_and_the_spec_stay(build, tmp_path):
    plain, part = build(), build(compile=True)
    assert list(part.state_dict()) == list(plain.state_dict())
    assert part.spec["init_args"]["compile"] is True
    part.save(tmp_path / "part.pt")
    loaded = Component.load(tmp_path / "part.pt")
    assert loaded.compiled
    plain.load_state_dict(loaded.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cross attention", "cosine", "film", "conv decoder", "sam decoder"])
def test_a_compiled_part_gives_the_same(name):
    plain, part = PARTS[name](), PARTS[name](compile=True)
    part.load_state_dict(plain.state_dict())
    for batch in (2, 3) if name == "cross attention" else (2,):  # another size is another compilation
        arguments = inputs(part, batch)
        expected, result = plain(*arguments), part(*arguments)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)
        if expected.requires_grad:
            weights = torch.randn_like(expected)
            (expected * weights).sum().backward()
            (result * weights).sum().backward()
    for (name, left), right in zip(part.named_parameters(), plain.parameters(), strict=True):
        if right.grad is not None:
            torch.testing.assert_close(left.grad, right.grad, atol=1e-3, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    assert part.pop_diagnostics().keys() == plain.pop_diagnostics().keys()


def test_a_compiled_part_runs_compiled_and_its_copy_runs_its_own_weights(monkeypatch):
    compiled = []

    def eager(graph, _):
        compiled.append(graph)
        return graph.forward

    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, **options: original(call, backend=eager))
    part = PARTS["cross attention"](compile=True)
    arguments = inputs(part)
    expected = part(*arguments)
    assert len(compiled) == 1
    twin = copy.deepcopy(part)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.zero_()
    assert torch.equal(twin(*arguments), expected)
    assert part(*arguments).abs().max() == 0
    assert twin.compiled
    assert twin._compiled_call_impl is not None


def test_errors_of_a_compiled_part_are_its_own():
    part = PARTS["cross attention"](compile=True)
    with pytest.raises(ValueError, match=r"model\.heatmap_head\.init_args"):
        part(torch.randn(2, 1, 11), torch.randn(2, 8, 4, 4))


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_told_what_is_missing(tmp_path: Path):
    code = (
        "import torch; from coprs_lightning.heatmap_heads import CrossAttentionHead\n"
        "head = CrossAttentionHead(query_dim=12, in_channels=8, dim=16, compile=True)\n"
        "head(torch.randn(2, 1, 12), torch.randn(2, 8, 4, 4))\n"
    )
    nowhere = {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, env=nowhere, capture_output=True, text=True)
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert "CrossAttentionHead.compile: torch.compile failed on this machine (" in done.stderr
    assert "It needs a C++ compiler such as g++ on a CPU" in message
    assert "or set compile: false." in message
