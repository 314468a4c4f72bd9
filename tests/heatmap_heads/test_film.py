import pytest
import torch
import torch.nn.functional as F

from coprs_lightning.heatmap_heads import FiLMHead
from tests.slots import HeadTester


class TestFiLM(HeadTester):
    def build(self, **options):
        return FiLMHead(**{"query_dim": self.query_dim, "in_channels": self.in_channels, "dim": 16, **options})

    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_equals_a_loop_over_the_equation(self, depth):
        head = self.build(depth=depth).eval()
        query, features = self.inputs()
        with torch.no_grad():
            output = head(query, features)
            for b in range(3):
                for k in range(2):
                    gamma, beta = head.film(query[b, k]).reshape(depth, 2, 16).unbind(1)
                    x = features[b][None]
                    for i in range(depth):
                        x = F.group_norm(F.conv2d(x, head.convs[i].weight, padding=1), 16)
                        x = F.silu((1 + gamma[i])[:, None, None] * x + beta[i][:, None, None])
                    expected = F.interpolate(head.head(x), scale_factor=4, mode="bilinear", align_corners=False)
                    torch.testing.assert_close(output[b, k], expected[0, 0])

    def test_evidence_for_and_against_and_the_bias_are_the_logits(self):
        head = self.build(upscale=1).eval()
        with torch.no_grad():
            maps = head.maps(*self.inputs())
            whole = maps["evidence for"] + maps["evidence against"] + head.head.bias
            torch.testing.assert_close(whole, head(*self.inputs()))
        assert maps["evidence for"].min() >= 0 >= maps["evidence against"].max()

    def test_groups_divide_any_width(self):
        assert self.run(self.build(dim=12), self.inputs()).shape == (3, 2, 24, 20)
        assert FiLMHead(query_dim=8, in_channels=8).norms[0].num_groups == 32

    @pytest.mark.parametrize("option", ["dim", "depth"])
    def test_refuses_sizes_below_one(self, option):
        with pytest.raises(ValueError, match=rf"FiLMHead\.{option} must be a positive integer, got 0"):
            self.build(**{option: 0})
