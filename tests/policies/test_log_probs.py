"""Log-probabilities in pieces are those of all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from coprs_lightning.policies.log_probs import token_log_probs

TOKENS, WIDTH, WORDS = 11, 6, 9


def given() -> tuple[torch.Tensor, torch.Tensor, nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, requires_grad=True)
    ids = torch.randint(0, WORDS - 2, (TOKENS,))
    suppressed = torch.zeros(WORDS, dtype=torch.bool)
    suppressed[-2:] = True
    return hidden, ids, nn.Linear(WIDTH, WORDS), suppressed


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_pieces_give_values_and_gradients_of_the_whole(chunk: int) -> None:
    hidden, ids, head, suppressed = given()
    log_probs, entropy = token_log_probs(
        hidden, ids, head, suppressed=suppressed, temperature=1.5, chunk=chunk, entropy_gradient=True
    )
    (log_probs.sum() + 0.3 * entropy.sum()).backward()
    assert hidden.grad is not None
    found = hidden.grad.clone(), head.weight.grad.clone()  # type: ignore[union-attr]
    hidden.grad = head.weight.grad = None
    logits = head(hidden)[:, :-2] / 1.5
    distribution = torch.distributions.Categorical(logits=logits)  # type: ignore[no-untyped-call]
    assert torch.allclose(log_probs, distribution.log_prob(ids), atol=1e-6)
    assert torch.allclose(entropy, distribution.entropy(), atol=1e-6)
    (distribution.log_prob(ids).sum() + 0.3 * distribution.entropy().sum()).backward()
    assert torch.allclose(found[0], hidden.grad, atol=1e-6)
    assert torch.allclose(found[1], head.weight.grad, atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk", [4, 100])
def test_the_entropy_has_a_gradient_only_where_asked(chunk: int) -> None:
    hidden, ids, head, suppressed = given()
    log_probs, entropy = token_log_probs(
        hidden, ids, head, suppressed=suppressed, temperature=1.0, chunk=chunk, entropy_gradient=False
    )
    assert log_probs.requires_grad
    (log_probs.sum() + entropy.sum()).backward()
    with_entropy = hidden.grad.clone()  # type: ignore[union-attr]
    hidden.grad = None
    token_log_probs(hidden, ids, head, suppressed=suppressed, temperature=1.0, chunk=chunk, entropy_gradient=False)[
        0
    ].sum().backward()
    assert torch.equal(with_entropy, hidden.grad)  # type: ignore[arg-type]


def test_logits_of_other_pieces_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, ids, head, suppressed = given()
    sizes: list[int] = []
    head.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.numel()), t)[1], lambda t: t):
        token_log_probs(hidden, ids, head, suppressed=suppressed, temperature=1.0, chunk=2, entropy_gradient=False)
    assert max(sizes) == 2
    assert not any(numel == TOKENS * WORDS for numel in saved)
