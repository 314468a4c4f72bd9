"""What a config needs before it runs: parameters by part, and memory by strategy."""

from coprs_lightning.estimate.memory import GIB, Load, estimate
from coprs_lightning.estimate.sizes import PartSize, Sizes, measure

__all__ = ["GIB", "Load", "PartSize", "Sizes", "estimate", "measure"]
