import torch

from coprs_lightning.decoders import UpsampleDecoder
from tests.slots import DecoderTester


class TestUpsample(DecoderTester):
    uses_features = False

    def build(self, **options):
        return UpsampleDecoder(in_channels=self.in_channels, **options)

    def test_the_heatmap_is_the_mask(self):
        features, heatmap, *rest = self.inputs()
        decoder = self.build()
        assert torch.equal(decoder(features, heatmap, *rest), heatmap)
        assert torch.equal(decoder(features, torch.full((3, 2, 8, 8), 2.0), *rest), torch.full((3, 2, 16, 16), 2.0))
        assert list(decoder.parameters()) == []
