"""`coprs convert …`: checkpoints of other programs into ours."""

HELP = "convert checkpoints of other programs (authors: the paper's released code)"
