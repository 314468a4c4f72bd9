"""Who may import whom: one direction, so that a part can be read, tested and swapped alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO

PACKAGE = "coprs_lightning"
SLOTS = ("policies", "backbones", "aggregators", "heatmap_heads", "decoders")
PLAIN = (
    "structures",
    "prompts",
    "geometry",
    "importing",
    "spec",
    "component",
    "schedule",
    "images",
    "sam_original",
    "weightless",
)

LAYERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(PLAIN, PLAIN),
    "losses": (*PLAIN, "losses"),
    "metrics": (*PLAIN, "metrics"),
    "sharding": (*PLAIN, "sharding"),
    **{slot: (*PLAIN, "sharding", slot) for slot in SLOTS},
    "rl": (*PLAIN, "losses", "metrics", "rl", "sharding"),
    "checkpoints": (*PLAIN, *SLOTS, "commands", "checkpoints"),  # the model's class comes from a spec
    "features": (*PLAIN, "backbones", "features"),
    "inference": (*PLAIN, *SLOTS),
    "model": (*PLAIN, *SLOTS, "checkpoints", "inference"),
    "objectives": (*PLAIN, *SLOTS, "losses", "metrics", "rl", "model", "objectives"),
    "strategies": (*PLAIN, "checkpoints", "rl", "sharding", "strategies"),
    "module": (
        *PLAIN,
        *SLOTS,
        "checkpoints",
        "features",
        "losses",
        "metrics",
        "rl",
        "model",
        "objectives",
        "strategies",
    ),
}
"""What each part of the package may import from it; the command line stands above and may import all of it."""

ABOVE = ("ablation", "cli", "commands", "demo", "estimate", "evaluation", "explain", "report", "slurm", "__main__")


def imports(file: Path) -> Iterator[str]:
    """Modules that a file imports when it runs, inside functions too; type checking blocks left out."""
    pending: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending += ast.iter_child_nodes(node)


def sources(package: str) -> list[Path]:
    found = sorted((REPO / package).rglob("*.py"))
    assert found, f"{package} has no sources"
    return found


def part_of(file: Path) -> str:
    """``cli_run.py`` → ``cli``, ``heatmap_heads/film.py`` → ``heatmap_heads``."""
    name = file.relative_to(REPO / PACKAGE).parts[0].removesuffix(".py")
    return "cli" if name.startswith("cli_") else name


@pytest.mark.parametrize("file", sources(PACKAGE), ids=lambda file: str(file.relative_to(REPO)))
def test_the_package_imports_downwards(file: Path) -> None:
    part = part_of(file)
    if part in ABOVE or part == "__init__":
        return
    for name in imports(file):
        root, _, rest = name.partition(".")
        target = rest.split(".")[0]
        assert root not in ("datamodules", "callbacks"), f"{part} imports {name}"
        if root == PACKAGE and target and target not in ("__version__",):
            assert target in LAYERS[part], f"{part} imports {name}"


@pytest.mark.parametrize("package", ["datamodules", "callbacks"])
def test_data_and_callbacks_know_no_model(package: str) -> None:
    allowed = (*PLAIN, "metrics")
    for file in sources(package):
        for name in imports(file):
            root, _, rest = name.partition(".")
            if root == PACKAGE and rest:
                assert rest.split(".")[0] in allowed, f"{file.relative_to(REPO)} imports {name}"


def test_every_part_has_its_place() -> None:
    parts = {part_of(file) for file in sources(PACKAGE)} - {"__init__"}
    assert parts <= {*LAYERS, *ABOVE}, "a new part of the package needs a line in LAYERS"
    assert set(SLOTS) <= parts


@pytest.mark.parametrize("package", [PACKAGE, "datamodules", "callbacks"])
def test_heavy_libraries_are_imported_where_they_are_used(package: str) -> None:
    late = {"timm", "matplotlib", "tensorboard", "vllm", "gradio", "submitit", "transformers", "peft"}
    for file in sources(package):
        if file.name == "build_small.py":  # a script of its own that nothing imports
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in late, f"{file.relative_to(REPO)} imports {name} at the top"


@pytest.mark.parametrize("package", [PACKAGE, "datamodules", "callbacks"])
def test_files_stay_short(package: str) -> None:
    long = {
        str(file.relative_to(REPO)): n for file in sources(package) if (n := len(file.read_text().splitlines())) > 400
    }
    assert long == {}
