"""Every shipped overlay of an ablation: what is built is what it says, and nothing is left over from the base."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from coprs_lightning.ablation.axes import SLOTS
from coprs_lightning.cli_lightning import LINKS, look, run
from coprs_lightning.cli_schema import parameters
from coprs_lightning.importing import import_class
from tests.conftest import REPO
from tests.published import write_policy, write_sam
from tests.test_configs import FAST, ON_CPU, on_tiny_data
from tests.tiny import write_config

CONFIGS = REPO / "configs"
ABLATION = CONFIGS / "ablation"
PAPER = "coprs.yaml"
DERIVED = {slot: {target.split(".")[-1] for target in LINKS if target.startswith(f"model.{slot}.")} for slot in SLOTS}
"""Options of each slot that are read from other parts."""
_FITS = re.compile(r"Fits ((?:\w+\.yaml(?:, )?)+)\.")

PAPERS = {
    "backbone", "policy", "heatmap_head", "num_heads", "aggregator", "decoder", "objective", "loss", "training",
    "group_size", "reward", "thought", "num_tokens",
}  # fmt: skip
"""Axes that the paper's ablations and the slots ask for."""


def overlays() -> list[Path]:
    return sorted(ABLATION.glob("*/*.yaml"))


def bases_of(overlay: Path) -> list[str]:
    header = " ".join(line[2:] for line in overlay.read_text().splitlines() if line.startswith("# "))
    found = _FITS.search(header)
    assert found is not None, f"{overlay} does not say which base it fits"
    return found[1].split(", ")


def pairs(*wanted: str) -> Iterator[Any]:
    for overlay in overlays():
        for base in bases_of(overlay):
            if base in wanted:
                yield pytest.param(base, overlay, id=f"{base}-{overlay.relative_to(ABLATION)}")


def same(given: Any, built: Any, path: str = "") -> None:
    """Whether everything given was built; a class that is named comes with all of its options and no others."""
    if not isinstance(given, dict):
        assert built == given, path
        return
    if "class_path" in given:
        cls = import_class(built["class_path"])
        assert cls.__name__ == given["class_path"], path
        own = set(parameters(cls)) - DERIVED.get(path, set())
        assert set(given["init_args"]) == own, f"{path} leaves options open, which a base would fill"
        assert set(built["init_args"]) - DERIVED.get(path, set()) == own, path
    for name, value in given.items():
        if name != "class_path":
            same(value, built[name], f"{path}.{name}")


def chosen(slot: str, built: dict[str, Any]) -> Any:
    """A part's spec without what is read from other parts."""
    if slot not in DERIVED:
        return built[slot]
    return {**built[slot], "init_args": {n: v for n, v in built[slot]["init_args"].items() if n not in DERIVED[slot]}}


def check(base: dict[str, Any], built: dict[str, Any], overlay: Path) -> None:
    """What an overlay names is built as it says, the rest as the base has it."""
    given = yaml.safe_load(overlay.read_text())["model"]
    for slot, content in given.items():
        same(content, built[slot], slot)
    assert built != base, "the overlay changes nothing"
    for slot in set(base) - set(given):
        assert chosen(slot, built) == chosen(slot, base)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of the hub as folders without weights, under their names."""
    folder = tmp_path_factory.mktemp("hub")
    names = ["Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen3-VL-4B-Instruct"]
    for name in [*names, "llava-hf/llava-1.5-7b-hf"]:
        write_policy(name, folder)
    write_sam(folder)
    return folder


_SPECS: dict[str, dict[str, Any]] = {}


def base_spec(name: str) -> dict[str, Any]:
    """What a base builds alone."""
    if name not in _SPECS:
        _SPECS[name] = look(["--config", str(CONFIGS / name)]).model.spec["init_args"]
    return _SPECS[name]


@pytest.mark.parametrize("overlay", [pytest.param(p, id=str(p.relative_to(ABLATION))) for p in overlays()])
def test_an_overlay_is_short_and_says_what_it_is(overlay: Path) -> None:
    lines = overlay.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert sum(not line.startswith("#") for line in lines) <= 10
    assert set(yaml.safe_load(overlay.read_text())) == {"model"}
    assert all((CONFIGS / base).is_file() for base in bases_of(overlay))
    # the quickstart's sizes are told by the name, so that nobody lays them over the paper's model
    assert overlay.stem.startswith("quickstart_") <= (PAPER not in bases_of(overlay))


def test_there_are_overlays_of_every_slot_and_of_the_papers_ablations() -> None:
    found = {path.parent.name for path in overlays()}
    assert found >= PAPERS
    for size in ("quickstart.yaml", PAPER):
        slots = {path.parent.name for path in overlays() if size in bases_of(path)}
        assert {"backbone", "policy", "aggregator", "heatmap_head", "decoder", "objective"} <= slots


@pytest.mark.parametrize(
    ("base", "overlay"), pairs("quickstart.yaml", "quickstart_grpo.yaml", "quickstart_several.yaml")
)
def test_an_overlay_of_the_quickstarts_is_built_as_it_says(base: str, overlay: Path) -> None:
    built = look(["--config", str(CONFIGS / base), "--config", str(overlay)]).model.spec["init_args"]
    check(base_spec(base), built, overlay)


@pytest.mark.slow
@pytest.mark.parametrize(("base", "overlay"), pairs(PAPER))
def test_an_overlay_of_the_papers_model_is_built_as_it_says(
    base: str, overlay: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(published)
    built = look(["--config", str(CONFIGS / base), "--config", str(overlay)]).model.spec["init_args"]
    check(base_spec(base), built, overlay)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "overlay"), pairs("quickstart.yaml", "quickstart_grpo.yaml", "quickstart_several.yaml")
)
def test_an_overlay_of_the_quickstarts_takes_a_step(base: str, overlay: Path, tiny_data: Path) -> None:
    words = ["--config", str(CONFIGS / base), "--config", str(overlay), "--model.init_from", "null"]
    cli = run(["fit", *words, *on_tiny_data(tiny_data), *ON_CPU, *FAST])
    assert cli.trainer.global_step == 1
    for slot, content in yaml.safe_load(overlay.read_text())["model"].items():
        same(content, cli.model.spec["init_args"][slot], slot)


@pytest.mark.slow
@pytest.mark.parametrize(
    "axis_and_name",
    [
        "heatmap_head/film", "heatmap_head/cosine", "heatmap_head/linear_fuse", "num_heads/heads_16",
        "aggregator/attention_pool", "aggregator/standardised_token", "decoder/conv", "decoder/upsample",
        "decoder/sam_untrained", "thought/without", "objective/supervised",
    ],
)  # fmt: skip
def test_a_part_of_the_papers_size_takes_a_step_in_a_small_model(axis_and_name: str, tiny: Path) -> None:
    overlay = ABLATION / f"{axis_and_name}.yaml"
    cli = run(["fit", "--config", str(tiny), "--config", str(overlay), *FAST])
    assert cli.trainer.global_step == 1


def test_the_documentation_lists_every_axis() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (REPO / "docs" / "ablation.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted({path.parent.name for path in overlays()})


def test_the_policies_are_those_of_the_complete_models() -> None:
    for name in ("qwen25vl_3b", "qwen3vl_4b", "llava15_7b"):
        given = yaml.safe_load((ABLATION / "policy" / f"{name}.yaml").read_text())["model"]["policy"]["init_args"]
        complete = yaml.safe_load((CONFIGS / "model" / f"coprs_{name}.yaml").read_text())["policy"]["init_args"]
        base = yaml.safe_load((CONFIGS / "model" / "coprs_qwen25vl_7b.yaml").read_text())["policy"]["init_args"]
        assert {**base, **given} == complete


def test_a_swapped_class_that_leaves_options_open_would_be_noticed(tmp_path: Path) -> None:
    overlay = write_config(tmp_path / "open.yaml", {"model": {"heatmap_head": {"class_path": "CosineHead"}}})
    base = CONFIGS / "quickstart.yaml"
    built = look(["--config", str(base), "--config", str(overlay)]).model.spec["init_args"]
    assert built["heatmap_head"]["init_args"]["dim"] == 96  # the FiLMHead's, without a word in the overlay
    given = {"class_path": "CosineHead", "init_args": {"temperature": 0.1}}
    with pytest.raises(AssertionError, match="leaves options open"):
        same(given, built["heatmap_head"])
