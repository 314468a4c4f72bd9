import pytest
import torch

from coprs_lightning.heatmap_heads import CosineHead
from tests.slots import HeadTester


class TestCosine(HeadTester):
    def build(self, **options):
        return CosineHead(query_dim=self.query_dim, in_channels=self.in_channels, dim=16, **options)

    def test_equals_a_loop_over_the_equation(self):
        head = self.build(upscale=1, temperature=0.2).eval()
        query, features = self.inputs()
        with torch.no_grad():
            output = head(query, features)
            for b in range(3):
                for k in range(2):
                    asked = head.q_proj.weight @ query[b, k]
                    keys = torch.einsum("oc,chw->hwo", head.k_proj.weight[..., 0, 0], features[b])
                    cosine = torch.cosine_similarity(keys, asked.expand_as(keys), dim=-1)
                    torch.testing.assert_close(output[b, k], cosine / 0.2 - 1.8)

    def test_the_map_is_the_cosine(self):
        head = self.build(upscale=1, temperature=0.2).eval()
        with torch.no_grad():
            cosine = head.maps(*self.inputs())["cosine"]
            torch.testing.assert_close(cosine / 0.2 - 1.8, head(*self.inputs()))
        assert cosine.abs().max() <= 1 + 1e-5

    def test_logits_stay_within_the_scale(self):
        head = self.build()
        with torch.no_grad():
            head.log_scale.fill_(50.0)
            output = self.run(head, self.inputs())
        assert output.abs().max() <= 100 + 1.8 + 1e-3
        assert head.pop_diagnostics()["temperature"].item() == pytest.approx(0.01)

    def test_refuses_a_temperature_that_explodes(self):
        with pytest.raises(ValueError, match=r"CosineHead\.temperature must be at least 0\.01, got 0\.0"):
            self.build(temperature=0.0)
