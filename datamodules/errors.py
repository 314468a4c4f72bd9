"""What can be wrong with shards that are read."""

from __future__ import annotations


class ShardError(Exception):
    """A shard or a split that cannot be used as it is: damaged, incomplete, or holding what no shard may hold."""
