"""docs/metrics.md explains every key that is logged, and none that is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import torch

from callbacks.correlation import HeatmapMaskCorrelation
from callbacks.correlation_thoughts import ThoughtMaskCorrelation
from callbacks.iou import IoUMetrics
from coprs_lightning.losses.segmentation import SegmentationWeights
from coprs_lightning.metrics import Answer
from coprs_lightning.rl.rewards import WeightedSumReward
from tests.conftest import REPO

DOC = REPO / "docs" / "metrics.md"
PACKAGES = ("coprs_lightning", "callbacks", "datamodules")
SLOTS = {
    "policies": "policy",
    "backbones": "backbone",
    "aggregators": "aggregator",
    "heatmap_heads": "heatmap_head",
    "decoders": "decoder",
    "objectives": "objective",
}


def documented() -> set[str]:
    """Keys in the first column of the tables, with ``*`` for ``<anything>``."""
    cells = re.findall(r"^\| (`[^|]*`) \|", DOC.read_text(encoding="utf-8"), flags=re.MULTILINE)
    keys = [key for cell in cells for key in re.findall(r"`([^`]+)`", cell)]
    assert len(keys) == len(set(keys)), "a key is explained twice"
    return {re.sub(r"<\w+>", "*", key) for key in keys}


def text(node: ast.AST | None) -> str | None:
    """A string or f-string of the source, with ``*`` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    return None


def nodes(folder: Path) -> Iterator[tuple[Path, ast.AST]]:
    files = sorted(folder.rglob("*.py"))
    assert files, folder
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            yield file, node


def calls(*names: str) -> Iterator[tuple[Path, ast.Call]]:
    """Calls of methods of these names in all packages."""
    for package in PACKAGES:
        for file, node in nodes(REPO / package):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names:
                yield file.relative_to(REPO), node


def objective_keys() -> set[str]:
    """Keys of the dictionaries that objectives put together, patterns resolved."""
    found: set[str | None] = set()
    for _, node in nodes(REPO / "coprs_lightning" / "objectives"):
        if isinstance(node, ast.Dict):
            found |= {text(key) for key in node.keys}
        if isinstance(node, ast.DictComp):
            found.add(text(node.key))
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "logs":
            found.add(text(node.slice))
    keys = {key for key in found if key is not None}
    assert {"loss/*", "reward/*"} <= keys
    keys.remove("loss/*")
    return keys | {f"loss/{field.name}" for field in fields(SegmentationWeights)}


def evaluation_keys() -> set[str]:
    """What validation logs of one example, thresholds and kinds as patterns."""
    metrics = IoUMetrics()
    mask = torch.ones(2, 2, dtype=torch.bool)
    metrics.mask_iou.update(mask, mask, kind="colour")
    metrics.mask_iou.update(~mask, ~mask)
    metrics.heatmap_iou.update(mask, mask)
    metrics.rates.update(["<REF_POS>"], mask[:1], mask[:1], mask[0, :1])
    metrics.counts.update(mask[:1], torch.ones(1))
    logits = torch.ones(4, 4)
    for metric in metrics.extra:
        for target in (logits > 0, logits < 0):
            metric.take(Answer(logits, logits, target))
    keys = {re.sub(r"@.*", "@*", key).replace("/colour", "/*") for key in metrics.scores()}
    return {re.sub(r"_by_\w+/\w+", "_by_*/*", key) for key in keys}


def slots_of_the_model() -> set[str]:
    for _, node in nodes(REPO / "coprs_lightning"):
        if isinstance(node, ast.FunctionDef) and node.name == "components":
            found = next(child for child in ast.walk(node) if isinstance(child, ast.Dict))
            return {str(text(key)) for key in found.keys}
    raise AssertionError("the model has no components()")


def diagnostics() -> set[str]:
    found = set()
    for file, call in calls("record"):
        if call.args:
            found.add(f"train/{SLOTS[file.parts[1]]}/{text(call.args[0])}")
    return found


def in_code() -> set[str]:
    keys = {f"train/{key}" for key in objective_keys()} | diagnostics()
    keys |= {f"{stage}/{key}" for stage in ("val", "test") for key in evaluation_keys()}
    correlations = (HeatmapMaskCorrelation.name, ThoughtMaskCorrelation.name)
    keys |= {f"{stage}/{name}_r" for stage in ("val", "test") for name in correlations}
    for _, call in calls("add_text", "add_image", "add_figure"):
        tag = text(call.args[0])
        assert tag is not None
        keys |= {tag.replace("*", stage, 1) for stage in ("val", "test")} if tag.startswith("*") else {tag}
    return keys | {"lr/*", "lr/decoder/prompt", "train/*/*"}


def test_every_logged_key_is_explained_and_no_other() -> None:
    code, doc = in_code(), documented()
    assert code - doc == set(), "logged, but not in docs/metrics.md"
    assert doc - code == set(), "in docs/metrics.md, but not logged"


def test_the_issue_of_reinforcement_is_covered() -> None:
    expected = {"reward/total", "reward/*", "reward/std", "frac_reward_zero_std", "kl", "entropy", "clip_ratio"}
    expected |= {"ratio_max", "advantage/abs_mean"}
    expected |= {f"loss/{part}" for part in ("policy", "kl", "entropy", "segmentation")}
    rates = ("mean_length", "max_length", "truncated_fraction", "malformed_fraction", "token_rate")
    expected |= {f"completions/{rate}" for rate in rates}
    assert expected <= objective_keys()


def test_only_known_places_log() -> None:
    """Another one needs a line in :func:`in_code`."""
    loggers = {(str(file), ast.unparse(call.func)) for file, call in calls("log", "log_dict") if is_lightning(call)}
    assert loggers == {
        ("coprs_lightning/module.py", "self.log"),
        ("coprs_lightning/module.py", "self.log_dict"),
        ("callbacks/iou.py", "pl_module.log_dict"),
        ("callbacks/correlation.py", "pl_module.log_dict"),
    }


def is_lightning(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in ("self", "pl_module")


def test_learning_rates_name_every_slot() -> None:
    content = DOC.read_text(encoding="utf-8")
    slots = slots_of_the_model() | {"objective"}
    assert slots == set(SLOTS.values())
    for slot in slots:
        assert f"`lr/{slot}`" in content, slot


def test_default_parts_of_the_reward_are_named() -> None:
    row = next(line for line in DOC.read_text(encoding="utf-8").splitlines() if "`train/reward/<part>`" in line)
    for part in WeightedSumReward().rewards:
        assert f"`{part}`" in row


def test_the_vocabulary_defines_what_options_are_called() -> None:
    entries = " ".join(re.findall(r"^\*\*(.+?)\*\*", DOC.read_text(encoding="utf-8"), flags=re.MULTILINE)).lower()
    for word in (
        *("policy", "reference policy", "rollout", "completion", "group", "reward", "advantage", "epsilon", "beta"),
        *("k3", "kl", "entropy", "log-probabilities", "ratio", "truncated", "malformed", "frac_reward_zero_std"),
        *("token weights", "update", "micro-batch", "concentration token", "slots", "matching"),
    ):
        assert word in entries, word
