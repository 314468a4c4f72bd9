"""The wheel: what a user installs has configs, tokenizer files and the command in it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPO

SOURCES = [
    "coprs_lightning",
    "datamodules",
    "callbacks",
    "configs",
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "LICENSE",
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree, unpacked as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in SOURCES:  # a copy, so that no build folder is left in the tree
        os.symlink(REPO / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(folder / "source")], check=True, stdin=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    return folder / "installed"


@pytest.mark.slow
def test_every_config_and_data_file_is_in_the_wheel(installed: Path) -> None:
    for pattern in (
        "configs/**/*.yaml",
        "configs/**/*.sbatch",
        "coprs_lightning/policies/shipped/**/*.*",
        "coprs_lightning/**/*.py",
    ):
        wanted = {str(path.relative_to(REPO)) for path in REPO.glob(pattern) if path.is_file()}
        assert wanted
        assert wanted == {str(path.relative_to(installed)) for path in installed.glob(pattern) if path.is_file()}
    assert not (installed / "tests").exists()
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "coprs = coprs_lightning.cli:main" in entry_points.read_text()


@pytest.mark.slow
def test_the_shipped_configs_are_found_from_anywhere(installed: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "coprs_lightning", "fit", "--config", "quickstart.yaml", "--print_config"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert f"using the shipped configs/quickstart.yaml ({installed}/configs/quickstart.yaml)" in done.stderr
    assert "class_path: coprs_lightning.policies.HFPolicy" in done.stdout
