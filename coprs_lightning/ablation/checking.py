"""Looks at every cell before the first one starts: config, parts, data and starting weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coprs_lightning.ablation.axes import Cell
from coprs_lightning.ablation.plan import Plan
from coprs_lightning.cli_errors import is_message
from coprs_lightning.commands import UsageError


def check_cells(plan: Plan) -> dict[str, Any]:
    """Build every cell without weights, and read the indexes of its data.

    Returns:
        trainer options by cell.

    Raises:
        UsageError: for the first cell that `coprs fit` would refuse, with its words.
    """
    with _quiet():
        return {cell.name: _check(plan, cell) for cell in plan.cells}


def _check(plan: Plan, cell: Cell) -> Any:
    from coprs_lightning.cli_lightning import look
    from datamodules.shard_datamodule import ShardDataModule

    starts = set()
    try:
        for seed in plan.seeds if any("{seed}" in word for word in plan.extra) else plan.seeds[:1]:
            cli = look([word.replace("{seed}", str(seed)) for word in plan.words(cell)])
            starts.add(cli.model.init_from)
        if isinstance(cli.datamodule, ShardDataModule):
            cli.datamodule.setup("fit")
    except Exception as error:
        if not is_message(error):
            raise
        raise UsageError(f"cell {cell.name}: {error}\nNothing was started.") from error
    missing = sorted(start for start in starts if start is not None and not Path(start).exists())
    if missing:
        raise UsageError(
            f"cell {cell.name}: model.init_from: there is no {', '.join(missing)} to start from. Make it first, or "
            "give --model.init_from null.\nNothing was started."
        )
    return cli.config["fit"]["trainer"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning tells the seed of every cell that is looked at."""
    logger = logging.getLogger("lightning.fabric.utilities.seed")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
