"""What a config needs before it runs: parameters by part, and memory by strategy."""

from coprs_lightning.estimate.memory import FORMULAS, GIB, Load, estimate, pass_bytes
from coprs_lightning.estimate.sizes import PartSize, Sizes, measure, with_precision

__all__ = ["FORMULAS", "GIB", "Load", "PartSize", "Sizes", "estimate", "measure", "pass_bytes", "with_precision"]
