from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from coprs_lightning.rl.references import AdaptersOffReference, FrozenCopyReference, ReferencePolicy
from tests.rl.references.policies import fresh_policy, train


def prepared(kind: type[ReferencePolicy], *, changed: bool = False) -> ReferencePolicy:
    policy = fresh_policy(lora=kind is AdaptersOffReference)
    if changed:
        with torch.no_grad():
            policy.lm.model.language_model.norm.weight *= 1.01
    reference = kind()
    reference.prepare(policy)
    train(policy, steps=1)  # what the reference is does not depend on it
    return reference


@pytest.mark.parametrize("kind", [AdaptersOffReference, FrozenCopyReference])
class TestState:
    def test_the_same_start_may_be_resumed(self, kind, tmp_path):
        state = prepared(kind).state()
        assert state["class_path"].endswith(kind.__name__)
        torch.save(state, tmp_path / "state.pt")
        assert torch.load(tmp_path / "state.pt", weights_only=True) == state
        prepared(kind).check_state(state)

    def test_another_start_is_refused(self, kind):
        state = prepared(kind, changed=True).state()
        with pytest.raises(ValueError, match=rf"by a run whose {kind.__name__} has.*towards other weights.*init_from"):
            prepared(kind).check_state(state)

    def test_a_run_without_a_reference_is_refused(self, kind):
        with pytest.raises(ValueError, match="by a run without such a reference policy"):
            prepared(kind).check_state({})


def test_references_of_other_kinds_hold_other_weights():
    with pytest.raises(ValueError, match="by a run whose FrozenCopyReference has"):
        prepared(AdaptersOffReference).check_state(prepared(FrozenCopyReference).state())


def test_a_reference_without_a_fingerprint_is_not_checked():
    class Itself(ReferencePolicy):
        def use(self, policy):
            return nullcontext(policy)

    reference = Itself()
    reference.prepare(fresh_policy(lora=False))
    assert reference.state() == {}
    reference.check_state(prepared(FrozenCopyReference).state())
