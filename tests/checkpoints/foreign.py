"""A part that is not of the package."""

from coprs_lightning.aggregators import LastTokenAggregator


class ForeignAggregator(LastTokenAggregator):
    """Somebody else's."""
