"""Converters: other people's dataset files become shards, with every rule of the original readers kept or named."""
