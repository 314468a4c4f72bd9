from dataclasses import replace

import pytest
import torch

from coprs_lightning.aggregators import (
    LastTokenAggregator,
    MultiTokenAggregator,
    StandardisedMultiTokenAggregator,
)
from tests.slots import AggregatorTester, policy_output


class Several(AggregatorTester):
    """Two tokens a completion: the first sample has two, the second none, the third one."""

    aggregator: type[MultiTokenAggregator]

    def build(self, **options):
        torch.manual_seed(0)
        return self.aggregator(**{"hidden_size": self.hidden_size, "num_tokens": 2, **options})

    def run(self, component, inputs):
        """Queries and confidences; what would be heatmaps is made of the queries."""
        found = component(*inputs)
        heatmaps = found.query[..., :9].unflatten(-1, (3, 3))
        confidence = component.confidence_with(found, heatmaps, torch.full((len(heatmaps), 2), 6), 6)
        return torch.cat([found.query, confidence[..., None]], -1)

    def test_a_token_of_the_prompt_is_not_present(self):
        result = self.build()(policy_output(self.hidden_size))
        assert result.present.tolist() == [[True, True], [False, False], [True, False]]
        for values in (result.query, result.confidence_logits[..., None]):
            assert (values[~result.present] == 0).all()
            assert (values[result.present] != 0).any(-1).all()

    def test_more_tokens_than_asked_for_are_the_last_ones(self):
        aggregator = self.build().eval()
        output = policy_output(self.hidden_size)
        output.token_mask[0, 6] = True
        with torch.no_grad():
            assert torch.equal(
                aggregator(output).query[0], aggregator(policy_output(self.hidden_size)).query[0]
            )  # columns 7 and 9

    def test_equal_states_give_different_queries(self):
        output = policy_output(self.hidden_size)
        output.hidden[0, 9] = output.hidden[0, 7]
        first, second = self.build().eval()(output).query[0]
        assert (first - second).abs().mean() > 0.01

    def test_every_slot_counts_at_first(self):
        aggregator = self.build()
        torch.nn.init.zeros_(aggregator.confidence.weight)
        found = aggregator(policy_output(self.hidden_size))
        heatmaps = torch.full((3, 2, 4, 4), -1.8)
        confidence = aggregator.confidence_with(found, heatmaps, torch.full((3, 2), 8), 8)
        torch.testing.assert_close(confidence, 0.1 * found.present.float())
        assert self.build(confidence_bias=3.0).confidence_bias.tolist() == [3.0, 3.0]

    def test_the_peak_of_a_heatmap_counts_where_there_is_image(self):
        aggregator = self.build(evidence=2.0)
        found = aggregator(policy_output(self.hidden_size))
        heatmaps = torch.full((3, 2, 4, 4), -3.0)
        heatmaps[0, 0, 1, 1] = 4.0
        heatmaps[0, 1, 3, 3] = 40.0
        sizes = torch.tensor([[8, 8], [8, 8], [4, 8]])
        heatmaps[2, 0, 3, 0] = 9.0  # padding
        peaks = aggregator.confidence_with(found, heatmaps, sizes, 8) - found.confidence_logits
        torch.testing.assert_close(peaks, 2 * torch.tensor([[4.0, 10.0], [0.0, 0.0], [-3.0, 0.0]]))

    def test_the_number_of_tokens_must_be_positive(self):
        with pytest.raises(ValueError, match=r"num_tokens must be a positive integer, got 0"):
            self.build(num_tokens=0)


class TestMultiToken(Several):
    aggregator = MultiTokenAggregator

    def test_queries_are_states_and_slots(self):
        aggregator = self.build()
        output = policy_output(self.hidden_size)
        query = aggregator(output).query
        torch.testing.assert_close(query[0], output.hidden[0, [7, 9]] + aggregator.slots)
        torch.testing.assert_close(query[2, 0], output.hidden[2, 6] + aggregator.slots[0])

    def test_one_token_without_its_slot_is_the_papers_query(self):
        aggregator = self.build(num_tokens=1)
        torch.nn.init.zeros_(aggregator.slots)
        output = policy_output(self.hidden_size)
        assert torch.equal(aggregator(output).query, LastTokenAggregator(hidden_size=self.hidden_size)(output).query)

    def test_confidences_are_linear_in_the_state(self):
        aggregator = self.build()
        output = policy_output(self.hidden_size)
        logits = aggregator(output).confidence_logits[0]
        expected = output.hidden[0, [7, 9]] @ aggregator.confidence.weight[0] + aggregator.confidence_bias
        torch.testing.assert_close(logits, expected)


class TestStandardisedMultiToken(Several):
    aggregator = StandardisedMultiTokenAggregator

    def test_every_slot_gets_mean_0_and_deviation_1(self):
        aggregator = self.build()
        output = policy_output(self.hidden_size)
        found = aggregator(output).query[[0, 2], 0] - aggregator.slots[0]
        states = output.hidden[[0, 2], [7, 6]]
        deviation = (states.var(0, unbiased=False) + aggregator.norms[0].eps).sqrt()
        torch.testing.assert_close(found, (states - states.mean(0)) / deviation, atol=1e-4, rtol=1e-4)

    def test_slots_without_a_token_leave_the_statistics_alone(self):
        output = policy_output(self.hidden_size)
        spoiled = output.hidden.clone()
        spoiled[1] = 1e6
        first, second = self.build(), self.build()
        first(output)
        second(replace(output, hidden=spoiled))
        for one, other in zip(first.norms, second.norms, strict=True):
            torch.testing.assert_close(one.running_mean, other.running_mean)
        # a single row has no deviation
        assert (first.norms[0].running_mean != 0).all()
        assert (first.norms[1].running_mean == 0).all()
        torch.testing.assert_close(
            first(output).query[0, 1], output.hidden[0, 9] / (1 + first.norms[1].eps) ** 0.5 + first.slots[1]
        )
