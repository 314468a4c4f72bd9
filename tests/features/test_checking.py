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
    check_features(small(), {"train": [description, description], "val": [None]}).check()
    check_features(cached(), {"train": [description], "val": [description]}).check()
    check_features(small(), {}).check()
    assert not recwarn.list


def test_other_weights_are_refused():
    other = small()
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    message = r"features of data\.init_args\.val were made by another backbone than model\.backbone.*TimmBackbone"
    with pytest.raises(ValueError, match=message):
        check_features(small(), {"train": [None], "val": [describe(other)]}).check()


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


def test_a_trained_backbone_may_be_evaluated_from_its_features():
    check_features(small(frozen=False), {"test": [describe(small())]}, training=False).check()


@pytest.mark.parametrize(("name", "value"), [("mean", (0.1, 0.2, 0.3)), ("std", (0.1, 0.2, 0.3))])
def test_pixels_that_are_normalised_in_another_way_are_refused(name, value):
    message = rf"computed from pixels with {name} \[0\.5, 0\.5, 0\.5\], model\.backbone has \[0\.1, 0\.2, 0\.3\]"
    with pytest.raises(ValueError, match=message):
        check_features(small(**{name: value}), {"train": [describe(small())]})
    check_features(cached(), {"train": [describe(small(**{name: value}))]}).check()  # it sees no pixels


def test_a_checkpoint_s_weights_count_where_one_is_loaded():
    other = small()
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    right, wrong = ({"train": [describe(made_by)]} for made_by in (other, small()))
    for features, fits in ((right, True), (wrong, False)):
        weights = check_features(small(), features)
        weights.replaced_by(other.state_dict())
        if fits:
            weights.check()
        else:
            with pytest.raises(ValueError, match="made by another backbone"):
                weights.check()


def test_a_checkpoint_in_half_precision_holds_the_same_backbone():
    rounded = {
        name: value.bfloat16() if value.is_floating_point() else value for name, value in small().state_dict().items()
    }
    weights = check_features(small(), {"train": [describe(small())]})
    weights.replaced_by(rounded)
    weights.check()


def test_a_sharded_checkpoint_is_not_compared():
    other = small()
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    weights = check_features(small(), {"train": [describe(other)]})
    weights.replaced_by(None)
    weights.check()


def test_features_that_do_not_say_whose_they_are():
    with pytest.warns(UserWarning, match="do not say which weights made them"):
        check_features(small(), {"train": [{"made": "by hand"}]}).check()
