import pytest
import torch

from coprs_lightning.decoders import ConvMaskDecoder
from coprs_lightning.geometry import valid_mask
from coprs_lightning.structures import NO_PRIOR_LOGIT
from tests.slots import PaddingBlindDecoderTester


class TestConv(PaddingBlindDecoderTester):
    def build(self, **options):
        decoder = ConvMaskDecoder(**{"in_channels": self.in_channels, "hidden": 16, **options})
        # the head starts at zero, which hides everything behind it
        torch.nn.init.normal_(decoder.head.weight)
        return decoder

    def test_starts_as_the_heatmap(self):
        features, heatmap, valid_sizes, frame = self.inputs()
        masks = ConvMaskDecoder(in_channels=self.in_channels)(features, heatmap, valid_sizes, frame)
        valid = valid_mask(valid_sizes, (16, 16), frame).expand_as(masks)
        assert torch.equal(masks[valid], heatmap[valid])
        assert (masks[~valid] == NO_PRIOR_LOGIT).all()

    @pytest.mark.parametrize("option", ["hidden", "depth"])
    def test_refuses_sizes_below_one(self, option):
        with pytest.raises(ValueError, match=rf"ConvMaskDecoder\.{option} must be a positive integer, got 0"):
            self.build(**{option: 0})
