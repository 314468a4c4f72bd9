from __future__ import annotations

import pytest
import torch

from coprs_lightning.backbones import CachedBackbone
from coprs_lightning.features.checking import check_features
from coprs_lightning.features.description import describe
from tests.features.test_description import small


def cached(**options):
    return CachedBackbone(**{"out_channels": 32, "stride": 4, "image_size": 32, "frozen": True, **options})


def test_the_same_backbone_and_none_are_fine(recwarn):
    description = describe(small())
    check_features(small(), {"train": [description, description], "val": [None]})
    check_features(cached(), {"train": [description], "val": [description]})
    check_features(small(), {})
    assert not recwarn.list


def test_other_weights_are_refused():
    other = small()
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    message = r"features of data\.init_args\.val were made by another backbone than model\.backbone.*TimmBackbone"
    with pytest.raises(ValueError, match=message):
        check_features(small(), {"train": [None], "val": [describe(other)]})


@pytest.mark.parametrize(("name", "value"), [("out_channels", 16), ("stride", 8), ("image_size", 64)])
def test_other_sizes_are_refused(name, value):
    message = rf"computed with {name} \d+, model\.backbone has {value}: .*Set model\.backbone\.init_args\.{name}"
    with pytest.raises(ValueError, match=message):
        check_features(cached(**{name: value}), {"train": [describe(small())]})


def test_a_split_without_features_needs_a_backbone():
    with pytest.raises(
        ValueError, match=r"CachedBackbone, but data\.init_args\.train has no features.*coprs data features"
    ):
        check_features(cached(), {"train": [None]})


def test_splits_with_and_without_features_do_not_mix():
    with pytest.raises(ValueError, match=r"train names several splits, of which only some have features"):
        check_features(small(), {"train": [describe(small()), None]})


def test_a_backbone_in_training_is_refused():
    with pytest.raises(
        ValueError, match=r"model\.backbone is trained, but data\.init_args\.train has features.*frozen: true"
    ):
        check_features(small(frozen=False), {"train": [describe(small())]})


def test_features_that_do_not_say_whose_they_are():
    with pytest.warns(UserWarning, match="do not say which weights made them"):
        check_features(small(), {"train": [{"made": "by hand"}]})
