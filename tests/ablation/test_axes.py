"""Axes, cells and their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coprs_lightning.ablation.axes import (
    Axis,
    Cell,
    Variant,
    cells_of,
    check_overrides,
    find_overlay,
    leaves,
    parse_axes,
)
from coprs_lightning.cli_configs import shipped_configs
from coprs_lightning.commands import UsageError
from tests.tiny import write_config


def overlay(path: Path, **slots: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(write_config(path, {"model": slots}))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with overlays of heads and decoders."""
    monkeypatch.chdir(tmp_path)
    for name in ("film", "cosine"):
        overlay(tmp_path / f"{name}.yaml", heatmap_head={"class_path": name})
    for name in ("conv", "up"):
        overlay(tmp_path / f"{name}.yaml", decoder={"class_path": name})
    return tmp_path


def names(words: list[str], mode: str) -> list[str]:
    return [cell.name for cell in cells_of(parse_axes(words), mode)]


def test_a_grid_has_every_combination_and_the_base(here: Path) -> None:
    words = ["heatmap_head=film.yaml,cosine.yaml", "decoder=conv.yaml,up.yaml"]
    assert names(words, "grid") == [
        "base",
        "heatmap_head=film,decoder=conv",
        "heatmap_head=film,decoder=up",
        "heatmap_head=cosine,decoder=conv",
        "heatmap_head=cosine,decoder=up",
    ]


def test_one_at_a_time_changes_one_thing(here: Path) -> None:
    words = ["heatmap_head=film.yaml,cosine.yaml", "decoder=conv.yaml,base"]
    assert names(words, "one-at-a-time") == ["base", "heatmap_head=film", "heatmap_head=cosine", "decoder=conv"]


def test_base_as_a_value_leaves_the_axis_out(here: Path) -> None:
    words = ["heatmap_head=base,film.yaml", "decoder=base,conv.yaml"]
    assert names(words, "grid") == ["base", "decoder=conv", "heatmap_head=film", "heatmap_head=film,decoder=conv"]


def test_no_axis_is_the_base_alone() -> None:
    assert names([], "grid") == names([], "one-at-a-time") == ["base"]


def test_a_cells_overlays_come_in_the_order_of_the_axes() -> None:
    cell = Cell((("a", Variant("x", "x.yaml")), ("b", Variant("y", "y.yaml"))))
    assert cell.overlays == ["x.yaml", "y.yaml"]
    assert Cell().overlays == []


def test_shipped_variants_are_found_by_name() -> None:
    configs = shipped_configs()
    for value in ("film", "film.yaml", "ablation/heatmap_head/film.yaml"):
        assert Path(find_overlay("heatmap_head", value)) == configs / "ablation" / "heatmap_head" / "film.yaml"
    assert Path(find_overlay("backbone", "sam_vit_b")) == configs / "model" / "backbone" / "sam_vit_b.yaml"


def test_a_file_here_comes_before_a_shipped_one(here: Path) -> None:
    assert find_overlay("heatmap_head", "film.yaml") == "film.yaml"


@pytest.mark.parametrize("word", ["heatmap_head", "heatmap_head=", "=film.yaml", "a b=film.yaml", "a/b=film.yaml"])
def test_an_axis_that_cannot_be_understood_is_refused(word: str, here: Path) -> None:
    with pytest.raises(UsageError, match=r"--axis '.*' cannot be understood: it must be NAME=FILE,FILE"):
        parse_axes([word])


def test_an_axis_given_twice_is_refused(here: Path) -> None:
    with pytest.raises(UsageError, match="--axis decoder is given twice"):
        parse_axes(["decoder=conv.yaml", "decoder=up.yaml"])


def test_variants_of_one_name_are_refused(here: Path) -> None:
    overlay(here / "other" / "film.yaml", heatmap_head={"class_path": "x"})
    overlay(here / "base.yaml", heatmap_head={"class_path": "x"})
    with pytest.raises(UsageError, match=r"'other/film.yaml' and 'film.yaml' would both be called heatmap_head=film"):
        parse_axes(["heatmap_head=film.yaml,other/film.yaml"])
    with pytest.raises(UsageError, match=r"would both be called heatmap_head=base"):
        parse_axes(["heatmap_head=film.yaml,base.yaml"])


def test_a_missing_file_is_refused_with_the_axis_variants(here: Path) -> None:
    with pytest.raises(UsageError, match=r"--axis heatmap_head: there is no file 'filn' here .*Did you mean film"):
        parse_axes(["heatmap_head=filn"])
    with pytest.raises(UsageError, match=r"--axis heatmap_head: config 'no/filn.yaml' is neither here"):
        parse_axes(["heatmap_head=no/filn.yaml"])


def test_an_unknown_axis_is_refused_with_those_there_are(here: Path) -> None:
    with pytest.raises(UsageError, match=r"'heatmap_haed' is no shipped axis\. Did you mean heatmap_head"):
        parse_axes(["heatmap_haed=film"])


def test_an_axis_of_a_slot_must_touch_that_slot(here: Path) -> None:
    with pytest.raises(UsageError, match=r"--axis decoder: film.yaml sets model.heatmap_head, and not model.decoder"):
        parse_axes(["decoder=film.yaml"])
    write_config(here / "steps.yaml", {"trainer": {"max_steps": 2}})
    with pytest.raises(UsageError, match=r"steps.yaml sets nothing of the model, and not model.decoder"):
        parse_axes(["decoder=steps.yaml"])
    assert parse_axes(["steps=steps.yaml"]) == [Axis("steps", (Variant("steps", "steps.yaml"),))]


def test_a_cell_whose_overlays_contradict_each_other_is_refused(here: Path) -> None:
    overlay(here / "heads.yaml", heatmap_head={"class_path": "cross", "init_args": {"num_heads": 8}})
    axes = parse_axes(["heatmap_head=film.yaml", "num_heads=heads.yaml"])
    with pytest.raises(UsageError) as caught:
        cells_of(axes, "grid")
    assert "cell heatmap_head=film,num_heads=heads: heads.yaml sets model.heatmap_head.class_path" in str(caught.value)
    assert "to 'cross', and film.yaml to 'film'" in str(caught.value)
    assert len(cells_of(axes, "one-at-a-time")) == 3


@pytest.mark.parametrize(
    "option", ["--model.heatmap_head.init_args.dim", "--model.heatmap_head.dim", "--model.heatmap_head", "--model"]
)
def test_an_option_that_would_overwrite_an_overlay_is_refused(option: str, here: Path) -> None:
    overlay(here / "wide.yaml", heatmap_head={"class_path": "x", "init_args": {"dim": 8}})
    cells = cells_of(parse_axes(["heatmap_head=wide.yaml"]), "grid")
    others = ["--model.heatmap_head.dims", "4", "--model.decoder", "x", "--trainer.max_steps=5"]
    check_overrides(cells, others)
    with pytest.raises(
        UsageError, match=rf"{option} would overwrite model\.heatmap_head\..* of wide\.yaml in every cell"
    ):
        check_overrides(cells, [*others, option, "4"])


def test_leaves_are_named_in_full() -> None:
    assert dict(leaves({"a": {"b": 1, "c": {}}, "d": [2]})) == {"a.b": 1, "a.c": {}, "d": [2]}
