from dataclasses import replace

import torch

from coprs_lightning.aggregators import LastTokenAggregator, StandardisedTokenAggregator
from tests.slots import AggregatorTester, policy_output


class TestStandardisedToken(AggregatorTester):
    def build(self, **options):
        return StandardisedTokenAggregator(hidden_size=self.hidden_size, **options)

    def test_rows_with_a_token_get_mean_0_and_deviation_1(self):
        query = self.build()(policy_output(self.hidden_size)).query[[0, 2], 0]
        torch.testing.assert_close(query.mean(0), torch.zeros(self.hidden_size), atol=1e-5, rtol=0)
        torch.testing.assert_close(query.std(0, unbiased=False), torch.ones(self.hidden_size), atol=1e-3, rtol=0)

    def test_a_row_without_a_token_leaves_the_statistics_alone(self):
        output = policy_output(self.hidden_size)
        spoiled = output.hidden.clone()
        spoiled[1] = 1e6
        first, second = self.build(), self.build()
        first(output)
        second(replace(output, hidden=spoiled))
        torch.testing.assert_close(first.norm.running_mean, second.norm.running_mean)

    def test_one_row_with_a_token_uses_the_running_statistics(self):
        output = policy_output(self.hidden_size)
        output.token_mask[2] = False
        aggregator = self.build()
        query = aggregator(output).query[0, 0]
        raw = LastTokenAggregator(hidden_size=self.hidden_size)(output).query[0, 0]
        torch.testing.assert_close(query, raw / (1 + aggregator.norm.eps) ** 0.5)
        assert (aggregator.norm.running_mean == 0).all()
