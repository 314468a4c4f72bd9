"""Run by torchrun: every process has its own prompts and writes their advantages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, distributed

from coprs_lightning.rl.advantages import ReinforcePlusPlusAdvantages

SHARES = (slice(0, 3), slice(3, 4))


def rewards() -> Tensor:
    """(4, 5) rewards of the whole batch."""
    return torch.rand(4, 5, generator=torch.Generator().manual_seed(3))


def main(folder: Path) -> None:
    """Write ``<rank>.json``."""
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    estimate = ReinforcePlusPlusAdvantages()
    equal = estimate(torch.full((len(rewards()[SHARES[rank]]), 5), 0.7))
    content = {"advantages": estimate(rewards()[SHARES[rank]]).tolist(), "equal": equal.tolist()}
    (folder / f"{rank}.json").write_text(json.dumps(content))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
