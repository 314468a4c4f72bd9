"""A spoiled step stops the run and never reaches the weights."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from callbacks.nan_guard import NaNGuard
from tests.callbacks.tiny import TinySegmenter, loader, trainer


class Before(Callback):
    """Keeps a copy of the weights as they were before each step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.weights = copy.deepcopy(pl_module.state_dict())


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_spoiled_loss_stops_the_run_before_the_weights_change(tmp_path, accumulate):
    module, before = TinySegmenter(spoil_at=2), Before()
    run = trainer(tmp_path, before, NaNGuard(), max_steps=5, accumulate_grad_batches=accumulate)
    keys = "split/004, split/005" if accumulate == 1 else "split/008, split/009"
    with pytest.raises(
        RuntimeError, match=rf"training loss is nan at step 2 \(epoch 0, rank 0\).*batch: {keys}"
    ) as error:
        run.fit(module, loader(range(20)))
    assert "Logged and not finite: train/loss/mask = nan. " in str(error.value)  # heatmap is fine, and not named
    assert "model.optimizer.learning_rate" in str(error.value)
    assert run.global_step == 2
    assert same(module.state_dict(), before.weights)
    assert all(value.isfinite().all() for value in module.state_dict().values())


def test_a_spoiled_gradient_of_a_finite_loss_is_found_too(tmp_path):
    module, before = TinySegmenter(spoil_at=1, spoil_gradient=True), Before()
    with pytest.raises(
        RuntimeError, match=r"loss is finite, but 1 of 4 gradients are not \(model.decoder.weight\) at step 1"
    ):
        trainer(tmp_path, before, NaNGuard(), max_steps=3, gradient_clip_val=1.0).fit(module, loader(range(8)))
    assert same(module.state_dict(), before.weights)


def test_gradients_are_left_alone_when_asked(tmp_path):
    module = TinySegmenter(spoil_at=1, spoil_gradient=True)
    trainer(tmp_path, NaNGuard(check_gradients=False), max_steps=2).fit(module, loader(range(8)))
    assert module.model["decoder"].weight.isnan().all()  # which is why the default looks at them


def test_large_half_precision_gradients_are_no_reason_to_stop(tmp_path):
    module = TinySegmenter()
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 6e4)
    module.half()
    run = trainer(tmp_path)
    optimizer = module.configure_optimizers()
    NaNGuard().on_before_optimizer_step(run, module, optimizer)
    module.model["head"].bias.grad = torch.tensor([float("-inf")], dtype=torch.float16)
    with pytest.raises(RuntimeError, match=r"gradients are not \(model.head.bias\)"):
        NaNGuard().on_before_optimizer_step(run, module, optimizer)


def test_a_healthy_run_is_not_disturbed(tmp_path):
    guarded, free = TinySegmenter(), TinySegmenter()
    free.load_state_dict(guarded.state_dict())
    trainer(tmp_path, NaNGuard(), max_steps=4).fit(guarded, loader(range(8)))
    trainer(tmp_path, max_steps=4).fit(free, loader(range(8)))
    assert same(guarded.state_dict(), free.state_dict())
