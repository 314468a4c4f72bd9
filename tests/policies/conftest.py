"""Policies shared by the tests that do not change them."""

from __future__ import annotations

import pytest

from coprs_lightning.policies import HFPolicy
from coprs_lightning.prompts import PromptTemplate
from coprs_lightning.structures import Completions, Prompts
from tests.parts import small_policy
from tests.policies.passes import IMAGES, QUESTIONS, THOUGHTS


@pytest.fixture(scope="session")
def policy() -> HFPolicy:
    """Shared by the tests that do not change it."""
    return small_policy()


@pytest.fixture(scope="session")
def prompts(policy: HFPolicy) -> Prompts:
    """Three prompts of different lengths over images of different sizes."""
    return policy.encode_prompts(IMAGES, QUESTIONS)


@pytest.fixture(scope="session")
def written(policy: HFPolicy) -> Completions:
    """Three completions of different lengths."""
    return policy.encode_completions(THOUGHTS)


@pytest.fixture(scope="session")
def brief() -> HFPolicy:
    """A policy whose prompts are the question alone, for many samples."""
    return small_policy(prompt=PromptTemplate(system="", user="{question}"))
