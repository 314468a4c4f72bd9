"""Policies: the multimodal LLMs that write the chain of thought."""

from coprs_lightning.policies.base import Policy
from coprs_lightning.policies.hf import HFPolicy
from coprs_lightning.policies.lora import LoraOptions

__all__ = ["HFPolicy", "LoraOptions", "Policy"]
