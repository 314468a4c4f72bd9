"""Shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from coprs_lightning.cli import main
from tests.tiny import make_data, tiny_config, write_config

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of real annotated photos; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("COPRS_REALDATA", REPO.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"real annotated photos are not at {folder} (set COPRS_REALDATA)")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits ``train``, ``val`` and ``test`` of coloured rectangles."""
    return make_data(tmp_path_factory.mktemp("tiny_data"))


@pytest.fixture(scope="session")
def trained_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished `coprs fit` of two steps; copy it before changing anything in it."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder / "tiny.yaml", tiny_config(tiny_data, folder / "run"))
    main(["fit", "--config", str(config)])
    return folder / "run"


@pytest.fixture
def tiny(tiny_data: Path, tmp_path: Path) -> Path:
    """A config file of the tiny experiment that runs in ``tmp_path / "run"``."""
    return write_config(tmp_path / "tiny.yaml", tiny_config(tiny_data, tmp_path / "run"))
