"""Policies: the multimodal LLMs that write the chain of thought."""

from coprs_lightning.policies.base import Policy
from coprs_lightning.policies.hf import HFPolicy

__all__ = ["HFPolicy", "Policy"]
