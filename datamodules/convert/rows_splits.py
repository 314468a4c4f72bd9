"""Divides images into splits: as the source says, or some of them at random for validation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datamodules.convert.errors import BadSourceError

TRAIN, VAL = "train", "val"
_SPLIT = re.compile(r"[A-Za-z0-9_+-]{1,50}")


def check_split(name: str, where: str) -> str:
    """The name, which becomes that of a folder.

    Raises:
        BadSourceError: other characters than letters, digits, ``_``, ``+`` and ``-``.
    """
    if not _SPLIT.fullmatch(name):
        raise BadSourceError(
            f"{where}: the split {name[:60]!r} cannot name a folder. Use 1–50 letters, digits, '_', '+' or '-'."
        )
    return name


@dataclass(frozen=True)
class SplitRule:
    """Where images go whose source does not say.

    Attributes:
        only: the split that all of them go to, or ``""`` to divide them into train and val.
        val_fraction: share of them that goes to val.
        seed: of the choice.
    """

    only: str = ""
    val_fraction: float = 0.1
    seed: int = 0

    def divide(self, names: Sequence[str]) -> dict[str, str]:
        """The split of each image.

        The choice rests on the seed and the names alone, so that an image rarely changes its split when others come.

        Args:
            names: of the images, in any order.
        """
        if self.only:
            return dict.fromkeys(names, self.only)
        chosen = round(self.val_fraction * len(names))
        if self.val_fraction > 0 and len(names) > 1:
            chosen = min(max(chosen, 1), len(names) - 1)
        val = set(sorted(names, key=self._rank)[:chosen])
        return {name: VAL if name in val else TRAIN for name in names}

    def _rank(self, name: str) -> bytes:
        return hashlib.sha256(f"{self.seed}:{name}".encode("utf-8", "surrogatepass")).digest()


def order_splits(splits: Iterable[str]) -> list[str]:
    """Train first, then val, then the others by name."""
    return sorted(set(splits), key=lambda name: ((TRAIN, VAL).index(name) if name in (TRAIN, VAL) else 2, name))
