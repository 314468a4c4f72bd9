"""Ablations: variants of one experiment over several seeds, and a table that tells them apart."""
