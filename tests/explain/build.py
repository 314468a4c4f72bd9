"""A small model that says what a test wants it to say, and explanations made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from coprs_lightning.aggregators import MultiTokenAggregator
from coprs_lightning.explain.explanation import Explanation, Reading
from coprs_lightning.explain.heatmaps import Levels
from coprs_lightning.explain.words import Word
from coprs_lightning.model import CoprsModel
from coprs_lightning.prompts import several_prompt
from coprs_lightning.structures import Completions
from tests.parts import rectangle, small_model, small_policy

THOUGHT = "look for: the red square, left."
QUESTION = "Where is the red one?"


def speaking_model(thought: str = THOUGHT, *, num_tokens: int = 1, **options: Any) -> CoprsModel:
    """A small model that always writes this thought and its concentration tokens; the rest is real."""
    if num_tokens > 1:
        policy = small_policy(prompt=several_prompt(num_tokens))
        aggregator = MultiTokenAggregator(hidden_size=policy.hidden_size, num_tokens=num_tokens)
        model = small_model(policy=policy, aggregator=aggregator, **options)
    else:
        model = small_model(**options)
    say(model, model.policy.encode_completions([thought]))
    return model


def say(model: CoprsModel, completions: Completions) -> None:
    """Make a model write a completion."""
    model.policy.generate = lambda prompts, **options: completions


def photo(height: int = 40, width: int = 60) -> np.ndarray:
    return rectangle(height, width, 3).image


def target(height: int = 40, width: int = 60) -> np.ndarray:
    return rectangle(height, width, 3).mask


def square(size: int, left: int, right: int) -> np.ndarray:
    """(size, size) bool, columns ``left`` … ``right - 1``."""
    mask = np.zeros((size, size), dtype=bool)
    mask[:, left:right] = True
    return mask


def reading(name: str = "as it is", mask: np.ndarray | None = None, **options: Any) -> Reading:
    """A reading whose heatmap is its mask."""
    mask = square(8, 0, 4) if mask is None else mask
    given: dict[str, Any] = {
        "completion": "<think> red </think> <REF_POS>",
        "thought": "red",
        "present": True,
        "heatmap": mask.astype(np.float32) * 0.9,
        "before": mask,
        "mask": mask,
        "mask_probability": mask.astype(np.float32) * 0.9,
        "objects": 1,
    }
    return Reading(name, **{**given, **options})


def explanation(**options: Any) -> Explanation:
    """A small explanation without surprises."""
    given: dict[str, Any] = {
        "question": "which?",
        "image": np.full((8, 8, 3), 90, dtype=np.uint8),
        "original": reading(),
        "counterfactuals": [],
        "words": [Word("<think>", 1, "other", 1.0, 0.0), Word(" red", 2, "thought", 0.9, 0.2)],
        "prompt": [],
        "head_maps": [],
        "heatmap_logits": np.zeros((1, 8, 8), dtype=np.float32),
        "heatmap_gradient": None,
        "soft_iou": None,
        "region": "mask",
        "region_share": 0.8,
        "levels": Levels(),
        "target": None,
        "truncated": False,
        "num_tokens": 1,
        "num_slots": 1,
    }
    return Explanation(**{**given, **options})
