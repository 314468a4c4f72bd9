"""`coprs data …`: make shards from a dataset, and look at them."""
