from __future__ import annotations

import json

import torch

from coprs_lightning.backbones import TimmBackbone
from coprs_lightning.features.description import describe, weights_fingerprint
from coprs_lightning.spec import build


def small(**options):
    torch.manual_seed(3)
    return TimmBackbone(**{"model_name": "test_resnet", "out_index": 1, "image_size": 32, "frozen": True, **options})


def test_the_fingerprint_is_that_of_the_weights():
    first, second = small(), small()
    assert weights_fingerprint(first) == weights_fingerprint(second)
    with torch.no_grad():
        next(second.parameters()).view(-1)[0] += 1e-6
    assert weights_fingerprint(first) != weights_fingerprint(second)
    assert weights_fingerprint(small()) != weights_fingerprint(small().to(torch.bfloat16))


def test_a_description_is_plain_data_and_rebuilds_the_backbone():
    backbone = small()
    description = json.loads(json.dumps(describe(backbone)))
    assert (description["image_size"], description["out_channels"], description["stride"]) == (32, 32, 4)
    assert description["mean"] == list(backbone.preprocessing.mean)
    assert build(description["backbone"]).out_channels == 32
