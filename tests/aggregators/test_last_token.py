from coprs_lightning.aggregators import LastTokenAggregator
from tests.slots import AggregatorTester, policy_output


class TestLastToken(AggregatorTester):
    def build(self, **options):
        return LastTokenAggregator(hidden_size=self.hidden_size, **options)

    def test_takes_the_state_at_the_last_token(self):
        output = policy_output(self.hidden_size)
        query = self.build()(output).query
        assert (query[0, 0] == output.hidden[0, 9]).all()
        assert (query[2, 0] == output.hidden[2, 6]).all()

    def test_has_no_parameters(self):
        assert list(self.build().parameters()) == []
