"""`coprs data …`: make shards from a dataset, and look at them."""

HELP = "make shards from a dataset, and look at them"
