from __future__ import annotations

import pytest
import torch
from torch import nn

from coprs_lightning.rl.references import FrozenCopyReference
from coprs_lightning.spec import build
from tests.rl.references.policies import fresh_policy, log_probs, train


class Trained(nn.Module):
    """A module as the objective is: it holds a policy and a reference."""

    def __init__(self, policy: nn.Module, reference: FrozenCopyReference) -> None:
        super().__init__()
        self.policy = policy
        self.reference = reference


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_it_computes_as_the_policy_did_before_training(lora, offload):
    policy = fresh_policy(lora=lora)
    initial = log_probs(policy)
    reference = FrozenCopyReference(offload=offload)
    reference.prepare(policy)
    train(policy)
    for _ in range(2):
        with reference.use(policy) as before:
            found = log_probs(before)
            assert not found.requires_grad
            assert not any(module.training for module in before.modules())
        assert torch.equal(found, initial)
    assert torch.is_grad_enabled()
    assert policy.training
    assert (log_probs(policy.eval()) - initial).abs().max() > 0.1


def test_it_adds_no_parameters_and_nothing_to_checkpoints():
    policy = fresh_policy(lora=False)
    reference = FrozenCopyReference()
    module = Trained(policy, reference)
    keys, count = set(module.state_dict()), len(list(module.parameters()))
    reference.prepare(policy)
    assert (set(module.state_dict()), len(list(module.parameters()))) == (keys, count)
    with reference.use(policy) as before:
        assert before is not policy
        assert not any(p.requires_grad for p in before.parameters())
        own = {p.data_ptr() for p in policy.parameters()}
        assert not own & {p.data_ptr() for p in before.parameters()}
        assert before.lm.lm_head.weight is before.lm.get_input_embeddings().weight


def test_the_policys_trainer_is_not_copied():
    class Trainer:
        def __deepcopy__(self, memo):
            raise AssertionError("copied")

    policy = fresh_policy(lora=False)
    object.__setattr__(policy, "_trainer", Trainer())
    FrozenCopyReference().prepare(policy)


@pytest.mark.parametrize("offload", [False, True])
def test_it_follows_the_policys_type(offload):
    """Lightning converts a model to bfloat16 after the copy was made."""
    policy = fresh_policy(lora=False)
    reference = FrozenCopyReference(offload=offload)
    reference.prepare(policy)
    policy.bfloat16()
    expected = log_probs(policy)
    with reference.use(policy) as before:
        assert {p.dtype for p in before.parameters()} == {torch.bfloat16}
        assert torch.equal(log_probs(before), expected)


def test_offloaded_weights_come_for_use_and_go_afterwards_on_exceptions_too():
    policy = fresh_policy(lora=False)
    reference = FrozenCopyReference(offload=True)
    reference.prepare(policy)
    policy.bfloat16()  # so that coming is a copy here too
    with reference.use(policy) as before:
        places = [p.data_ptr() for p in before.parameters()]
    kept = [p.data_ptr() for p in before.parameters()]
    assert not set(places) & set(kept)
    assert {p.dtype for p in before.parameters()} == {torch.float32}

    def fail() -> None:
        with reference.use(policy):
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert [p.data_ptr() for p in before.parameters()] == kept
    assert torch.is_grad_enabled()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("offload", [False, True])
def test_it_follows_the_policy_to_the_gpu(offload):
    policy = fresh_policy(lora=False)
    reference = FrozenCopyReference(offload=offload)
    reference.prepare(policy)
    digest = reference.fingerprint
    policy.cuda()
    expected = log_probs(policy)
    for _ in range(2):
        with reference.use(policy) as before:
            assert {p.device.type for p in before.parameters()} == {"cuda"}
            torch.testing.assert_close(log_probs(before), expected)
        after = {p.device.type for p in before.parameters()}
        assert after == ({"cpu"} if offload else {"cuda"})
        assert all(p.is_pinned() for p in before.parameters()) == offload
    reference.prepare(policy)
    assert reference.fingerprint == digest


def test_use_before_prepare_is_refused():
    with pytest.raises(RuntimeError, match=r"has no copy.*Call prepare\(policy\)"):
        FrozenCopyReference().use(fresh_policy(lora=False)).__enter__()


def test_its_spec_rebuilds_it():
    assert build(FrozenCopyReference(offload=True).spec).offload is True
