"""`coprs estimate`: the sizes of a config, without its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coprs_lightning.cli import main
from tests.conftest import REPO
from tests.published import PARAMETERS, write_policy, write_sam
from tests.tiny import refused

QUICKSTART = ["estimate", "--config", str(REPO / "configs" / "quickstart_grpo.yaml")]


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    main([*words, "--json"])
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def test_options_of_fit_change_the_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    whole = told(QUICKSTART, capsys)
    assert whole["load"]["samples"]
    assert whole["load"]["reference_copy"]
    assert (whole["load"]["group"], whole["load"]["completion_tokens"]) == (8, 40)
    fewer = told([*QUICKSTART, "--model.objective.init_args.num_generations", "2"], capsys)
    assert fewer["load"]["group"] == 2
    assert fewer["bytes"]["one device"]["activations"] < whole["bytes"]["one device"]["activations"]
    offload = ["--model.objective.reference", "FrozenCopyReference", "--model.objective.reference.offload", "true"]
    offloaded = told([*QUICKSTART, *offload], capsys)
    assert (offloaded["load"]["reference_copy"], offloaded["load"]["reference_offloaded"]) == (False, True)
    assert "reference policy" not in offloaded["bytes"]["one device"]
    frozen = told([*QUICKSTART, "--model.policy.init_args.frozen", "true"], capsys)
    policies = [next(p for p in each["parameters"] if p["name"] == "policy") for each in (whole, frozen)]
    assert policies[0]["total"] == policies[1]["total"]
    assert (policies[0]["trainable"], policies[1]["trainable"]) == (policies[0]["total"], 0)


def test_lengths_and_devices_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--devices", "4", "--prompt-tokens", "60", "--completion-tokens", "20"]
    found = told([*QUICKSTART, *given], capsys)
    assert (found["load"]["prompt_tokens"], found["load"]["completion_tokens"]) == (60, 20)
    assert list(found["bytes"]) == ["one device", "DDP × 4", "full shard × 4"]


def test_the_papers_model_is_told_as_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "Qwen/Qwen2.5-VL-7B-Instruct"
    write_policy(name, tmp_path)
    write_sam(tmp_path)
    monkeypatch.chdir(tmp_path)
    main(["estimate", "--config", str(REPO / "configs" / "coprs.yaml")])
    text = capsys.readouterr().out
    assert f"{PARAMETERS[name]:,}" in text
    assert "full shard × 8" in text
    assert "fits 80 GB" in text


def test_precision_and_formulas_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    plain, half = told(QUICKSTART, capsys), told([*QUICKSTART, "--precision", "bf16-true"], capsys)
    assert 2 * half["bytes"]["one device"]["weights"] == plain["bytes"]["one device"]["weights"]
    either = plain["activations_by_checkpointing"]
    assert plain["bytes"]["one device"]["activations"] == either["without"] > either["with"] > 0
    main([*QUICKSTART, "--verbose"])
    text = " ".join(capsys.readouterr().out.split())
    assert "- optimizer: 2 × gradients: both moments of Adam" in text
    assert "Gradient checkpointing is off" in text


def test_numbers_below_one_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--devices must be at least 1, got 0" in refused([*QUICKSTART, "--devices", "0"], capsys, status=1)


def test_mistakes_in_a_config_are_those_of_fit(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*QUICKSTART, "--model.heatmap_head", "FilmHed"]
    assert "Choices: " in refused(words, capsys, status=2)
