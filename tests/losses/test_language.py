"""Cross-entropy of completions against a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coprs_lightning.losses.language import completion_cross_entropy


def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 6, 11, generator=generator)
    ids = torch.randint(0, 11, (4, 6), generator=generator)
    lengths = torch.tensor([6, 1, 4, 0])
    return logits, ids, torch.arange(6)[None] < lengths[:, None]


def test_matches_a_loop_over_rows_and_tokens():
    logits, ids, mask = case()
    values = logits.double().numpy()
    expected = []
    for row in range(4):
        losses = [
            np.log(np.exp(values[row, t]).sum()) - values[row, t, ids[row, t]] for t in range(6) if bool(mask[row, t])
        ]
        expected.append(np.mean(losses) if losses else 0.0)
    result = completion_cross_entropy(logits, ids, mask)
    assert result.shape == (4,)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5)


def test_what_is_masked_has_neither_value_nor_gradient():
    logits, ids, mask = case()
    plain = completion_cross_entropy(logits, ids, mask)
    spoiled = logits.masked_fill(~mask[..., None], -float("inf")).masked_fill(
        ~mask[..., None] & (torch.arange(11) == 0), 0
    )
    assert torch.equal(completion_cross_entropy(spoiled, ids, mask), plain)
    logits.requires_grad_(True)
    completion_cross_entropy(logits, ids, mask).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[~mask] == 0).all()
    assert (logits.grad[mask].abs().sum(-1) > 0).all()


def test_the_mean_does_not_depend_on_the_split():
    logits, ids, mask = case()
    together = completion_cross_entropy(logits, ids, mask)
    alone = [completion_cross_entropy(logits[i : i + 1], ids[i : i + 1], mask[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_full(dtype):
    logits, ids, mask = case()
    logits = (logits * 15).clamp(-50, 50).to(dtype).requires_grad_(True)
    result = completion_cross_entropy(logits, ids, mask)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, completion_cross_entropy(logits.detach().float(), ids, mask))
    result.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
