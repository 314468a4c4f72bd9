from __future__ import annotations

import pytest
import torch

from coprs_lightning.rl.references import AdaptersOffReference
from tests.rl.references.policies import fresh_policy, log_probs, train


def test_it_computes_as_the_policy_did_before_training():
    initial = log_probs(fresh_policy(lora=False))
    policy = fresh_policy(lora=True)
    reference = AdaptersOffReference()
    reference.prepare(policy)
    train(policy)
    policy.lm.model.visual.eval()  # a part in another mode than the whole
    modes = [module.training for module in policy.modules()]
    with reference.use(policy) as before:
        assert before is policy
        found = log_probs(before)
        assert not found.requires_grad
        assert not any(module.training for module in before.modules())
    assert torch.equal(found, initial)
    assert [module.training for module in policy.modules()] == modes
    assert (log_probs(policy.eval()) - initial).abs().max() > 0.1


def test_mode_adapters_and_gradients_come_back_on_exceptions():
    policy = fresh_policy(lora=True)
    train(policy)
    changed = log_probs(policy)

    def fail() -> None:
        with AdaptersOffReference().use(policy):
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert policy.training
    again = log_probs(policy)
    assert again.requires_grad
    assert torch.equal(again, changed)


def test_a_policy_without_adapters_is_refused():
    with pytest.raises(ValueError, match=r"needs a policy with adapters.*init_args\.lora.*or use FrozenCopyReference"):
        AdaptersOffReference().prepare(fresh_policy(lora=False))


def test_a_policy_that_starts_with_trained_adapters_is_refused():
    policy = fresh_policy(lora=True)
    train(policy, steps=1)
    with pytest.raises(ValueError, match=r"starts with trained adapters.*Use FrozenCopyReference"):
        AdaptersOffReference().prepare(policy)


def test_the_fingerprint_is_of_the_policys_own_weights():
    policy = fresh_policy(lora=True)
    reference = AdaptersOffReference()
    reference.prepare(policy)
    digest = reference.fingerprint
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_A" in name:  # random, and without effect as long as lora_B is zero
                parameter.normal_()
    reference.prepare(policy)
    assert reference.fingerprint == digest
    with torch.no_grad():
        policy.lm.model.language_model.norm.weight *= 1.01
    reference.prepare(policy)
    assert reference.fingerprint != digest
