"""The published numbers: complete, plausible, and copied without slips."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from coprs_lightning.evaluation import benchmarks
from coprs_lightning.evaluation.benchmarks import known_benchmarks, original_size, published

CONTENT = yaml.safe_load(Path(benchmarks.__file__).with_name("published.yaml").read_text(encoding="utf-8"))

AVERAGES = {
    "CoPRS-7B": 78.1, "LISA-7B": 67.9, "LISA-7B (fine-tuned)": 69.9, "PixelLM-7B": 72.3, "READ-7B": 71.9,
    "OMG-LLaVA-7B": 72.9, "GLaMM-7B": 75.6, "Text4Seg-8B": 75.4, "SAM4MLLM-8B": 76.4, "PSALM-1.3B": 77.1,
    "UniPixel-7B": 77.5, "LENS-3B": 81.2, "LENS-2B": 76.5, "FCLM-7B": 79.4, "SeGDeP-4B": 82.7, "ReChannel-9B": 82.0,
    "SAM 3 Agent (Gemini)": 71.2,
}  # fmt: skip
"""Means over the eight RefCOCO splits, as the sources print them: a wrong digit in a row changes its mean."""


def test_rows_of_eight_splits_have_the_mean_that_their_source_prints() -> None:
    found = {}
    for row in CONTENT["rows"]:
        values = [value for name, value in row.get("ciou", {}).items() if name.startswith("refcoco")]
        if len(values) == 8:
            found[row["model"]] = sum(values) / 8
    assert set(AVERAGES) <= set(found)
    for model, mean in AVERAGES.items():
        assert found[model] == pytest.approx(mean, abs=0.051), model


def test_every_row_is_about_known_splits_and_names_its_source() -> None:
    assert {row["source"] for row in CONTENT["rows"]} == set(CONTENT["sources"])
    for row in CONTENT["rows"]:
        assert set(row) <= {"model", "unit", "source", "giou", "ciou"}
        assert row.get("unit") in (None, "target", "expression")
        cells = {**row.get("giou", {}), **row.get("ciou", {})}
        assert cells
        assert set(cells) <= set(CONTENT["sizes"])
        assert all(30 < value < 95 for value in cells.values())
    for benchmark in known_benchmarks():
        models = [(one.model, one.metric, one.unit) for one in published(benchmark)]
        assert len(set(models)) == len(models)


def test_the_papers_own_row_comes_first_as_a_fraction() -> None:
    first = published("refcoco+-unc-testB")[0]
    assert (first.model, first.metric, first.value, first.unit) == ("CoPRS-7B", "ciou", 0.697, "target")
    assert "ReChannel" in first.source
    metrics = [one.metric for one in published("reasonseg-test") if one.model == "CoPRS-7B"]
    assert metrics == ["giou", "ciou"]
    assert published(None) == published("synthetic-val") == []


def test_sizes_of_the_original_splits() -> None:
    assert original_size("refcoco-unc-val", "target") == 3811
    assert original_size("refcoco-unc-val", "expression") == 10834
    assert original_size("reasonseg-test", "target") == 779
    assert original_size("reasonseg-test", "expression") is None
    assert original_size("synthetic-val", "target") is None
    sizes = CONTENT["sizes"]
    # the datasets' own totals, less their training splits
    assert sum(sizes[f"refcoco-unc-{name}"]["expression"] for name in ("val", "testA", "testB")) == 142210 - 120624
    assert sum(sizes[f"refcoco-unc-{name}"]["target"] for name in ("val", "testA", "testB")) == 50000 - 42404
    assert sum(sizes[f"refcoco+-unc-{name}"]["expression"] for name in ("val", "testA", "testB")) == 141564 - 120191
    assert sum(sizes[f"refcoco+-unc-{name}"]["target"] for name in ("val", "testA", "testB")) == 49856 - 42278
    assert sum(sizes[f"refcocog-umd-{name}"]["expression"] for name in ("val", "test")) == 95010 - 80512
    assert sum(sizes[f"refcocog-umd-{name}"]["target"] for name in ("val", "test")) == 49822 - 42226
