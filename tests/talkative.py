"""A small model that writes different texts about different images, most of them with the concentration token."""

from __future__ import annotations

import torch
from torch import nn

from coprs_lightning.model import CoprsModel
from tests.parts import small_model


def talkative_model() -> CoprsModel:
    """Always with the same weights; writes six tokens."""
    model = small_model()
    liked = nn.functional.one_hot(torch.tensor(model.policy.concentration_id), 1408) * 4.0
    model.policy.lm.lm_head.register_forward_hook(lambda module, args, output: output + liked)
    model.max_new_tokens = 6
    return model
