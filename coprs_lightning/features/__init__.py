"""Features of a frozen backbone, computed once an image and kept in the shards (CoPRS paper, section 4)."""
