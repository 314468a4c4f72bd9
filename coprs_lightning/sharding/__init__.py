"""A policy whose weights are divided among processes (FSDP2), and the parts that each of them has a copy of."""
