import math

import pytest
import torch
import torch.nn.functional as F

from coprs_lightning.heatmap_heads import CrossAttentionHead, LinearFuseCrossAttentionHead
from tests.slots import HeadTester


def by_the_equation(head, query, features, heads):
    """fuse([(Q W_i^Q)(K W_i^K)^T / sqrt(d)]), one sample, one query, one head at a time."""
    batch, count, _ = query.shape
    _, channels, height, width = features.shape
    maps = torch.empty(batch, count, height * head.upscale, width * head.upscale)
    width_of_head = head.q_proj.out_features // heads
    for b in range(batch):
        cells = features[b].reshape(channels, -1).T
        for k in range(count):
            logits = []
            for i in range(heads):
                rows = slice(i * width_of_head, (i + 1) * width_of_head)
                q = head.q_proj.weight[rows] @ query[b, k]
                keys = cells @ head.k_proj.weight[rows, :, 0, 0].T
                logits.append((keys @ q / math.sqrt(width_of_head)).reshape(height, width))
            fused = head.fuser(torch.stack(logits)[None])
            size = (height * head.upscale, width * head.upscale)
            maps[b, k] = F.interpolate(fused, size, mode="bilinear", align_corners=False)[0, 0]
    return maps


class TestCrossAttention(HeadTester):
    cls = CrossAttentionHead

    def build(self, **options):
        return self.cls(query_dim=self.query_dim, in_channels=self.in_channels, num_heads=4, dim=16, **options)

    def test_equals_a_loop_over_the_equation(self):
        head = self.build().eval()
        with torch.no_grad():
            torch.testing.assert_close(head(*self.inputs()), by_the_equation(head, *self.inputs(), heads=4))

    def test_maps_are_the_heads_that_the_fuser_joins(self):
        head = self.build(upscale=1).eval()
        with torch.no_grad():
            maps = head.maps(*self.inputs())
            assert list(maps) == ["head 1", "head 2", "head 3", "head 4"]
            joined = torch.stack([*maps.values()], 2).flatten(0, 1)
            torch.testing.assert_close(head.fuser(joined).view(3, 2, 6, 5), head(*self.inputs()))

    def test_refuses_heads_that_do_not_divide(self):
        with pytest.raises(ValueError, match="dim 16 is no multiple of num_heads 3"):
            self.cls(query_dim=4, in_channels=4, num_heads=3, dim=16)

    @pytest.mark.parametrize("option", ["num_heads", "dim", "upscale", "query_dim", "in_channels"])
    def test_refuses_sizes_below_one(self, option):
        with pytest.raises(ValueError, match=rf"Head\.{option} must be a positive integer, got 0"):
            self.cls(**{"query_dim": 4, "in_channels": 4, option: 0})


class TestLinearFuse(TestCrossAttention):
    cls = LinearFuseCrossAttentionHead


def test_the_paper_s_sizes():
    head = CrossAttentionHead(query_dim=3584, in_channels=256)
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters()}
    assert shapes == {
        "q_proj.weight": (256, 3584),
        "k_proj.weight": (256, 256, 1, 1),
        "fuser.0.weight": (4, 4, 3, 3),
        "fuser.0.bias": (4,),
        "fuser.2.weight": (1, 4, 3, 3),
        "fuser.2.bias": (1,),
    }
    assert head.fuser[2].bias.item() == pytest.approx(-1.8)
    assert LinearFuseCrossAttentionHead(query_dim=8, in_channels=8).fuser[0].weight.shape == (1, 4, 1, 1)
