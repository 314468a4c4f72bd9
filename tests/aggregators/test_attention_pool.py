import math
from dataclasses import replace

import pytest
import torch

from coprs_lightning.aggregators import AttentionPoolAggregator
from tests.slots import AggregatorTester, policy_output


class TestAttentionPool(AggregatorTester):
    def build(self, **options):
        return AttentionPoolAggregator(hidden_size=self.hidden_size, num_heads=2, **options)

    def test_equals_a_loop_over_the_equation(self):
        aggregator = self.build()
        output = policy_output(self.hidden_size)
        query = aggregator(output).query
        for row, seen in ((0, [2, 3, 5, 6, 7, 8, 9]), (2, [2, 3, 5, 6])):
            state = output.hidden[row, seen[-1]]
            asked = aggregator.q_proj(state + aggregator.query)
            keys = aggregator.k_proj(output.hidden[row, seen])
            values = aggregator.v_proj(output.hidden[row, seen])
            heads = []
            for head in (slice(0, 8), slice(8, 16)):
                weights = torch.softmax(keys[:, head] @ asked[head] / math.sqrt(8), dim=0)
                heads.append(weights @ values[:, head])
            expected = aggregator.norm(state + aggregator.out_proj(torch.cat(heads)))
            torch.testing.assert_close(query[row, 0], expected)

    def test_image_and_thought_matter_but_not_the_question(self):
        aggregator = self.build().eval()
        output = policy_output(self.hidden_size)
        expected = aggregator(output).query[0]
        for column, matters in ((2, True), (4, False), (6, True)):
            hidden = output.hidden.clone()
            hidden[0, column] += 1
            changed = aggregator(replace(output, hidden=hidden)).query[0]
            assert torch.equal(changed, expected) is not matters

    def test_query_dim_projects(self):
        aggregator = self.build(query_dim=6)
        assert aggregator.query_dim == 6
        assert aggregator(policy_output(self.hidden_size)).query.shape == (3, 1, 6)

    def test_refuses_heads_that_do_not_divide(self):
        with pytest.raises(ValueError, match="num_heads 3 does not divide the policy's hidden_size 16"):
            AttentionPoolAggregator(hidden_size=16, num_heads=3)

    @pytest.mark.parametrize("option", ["num_heads", "query_dim", "hidden_size"])
    def test_refuses_sizes_below_one(self, option):
        with pytest.raises(ValueError, match=rf"AttentionPoolAggregator\.{option} must be a positive integer, got 0"):
            AttentionPoolAggregator(**{"hidden_size": 16, option: 0})
