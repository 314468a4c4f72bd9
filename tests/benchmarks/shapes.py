"""Sizes of policies, as changes to the configuration of the shipped ``small_qwen2_5_vl``; weights are random."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from coprs_lightning.backbones.sam import SamVisionOptions
from coprs_lightning.policies import HFPolicy


@dataclass(frozen=True)
class Shape:
    """A policy's sizes and what a step is like with it unless options say otherwise.

    Attributes:
        overrides: of the configuration.
        prompt_tokens: P, image tokens included.
        completion_tokens: R.
        num_generations: G.
        batch_size: prompts.
        image_side: pixels; an image token is 28 × 28 of them.
        precision: of the policy's weights.
        lora: train adapters instead of all weights.
        checkpointing: recompute activations in the backward pass.
        encoder: the image encoder, where a step has one.
        feature_grid: cells along a side of the image features.
    """

    overrides: dict[str, Any]
    prompt_tokens: int
    completion_tokens: int
    num_generations: int
    batch_size: int
    image_side: int
    precision: str
    lora: bool
    checkpointing: bool
    encoder: SamVisionOptions
    feature_grid: int = 64


def rope_section(head_dim: int) -> list[int]:
    """Shares of time, height and width in the rotary embedding, as Qwen2.5-VL divides 64: 16, 24, 24."""
    time = head_dim // 8
    height = (head_dim // 2 - time) // 2
    return [time, height, head_dim // 2 - time - height]


def sizes_of(hidden: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    """A language model of some size behind the shipped vision tower."""
    return {
        "text_config": {
            "hidden_size": hidden,
            "intermediate_size": 4 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "rope_parameters": {"mrope_section": rope_section(hidden // heads)},
            # wide enough that every token's state depends on the others by far more than rounding
            "initializer_range": 1.8 * hidden**-0.5,
        },
        "vision_config": {"out_hidden_size": hidden},
    }


VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "num_heads": 16,
    "intermediate_size": 3420,
    "patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
"""Vision tower of Qwen2.5-VL 3B and 7B."""


def _qwen(
    hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocabulary: int, tied: bool
) -> dict[str, Any]:
    return {
        "text_config": {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": intermediate,
            "vocab_size": vocabulary,
            "tie_word_embeddings": tied,
            "max_position_embeddings": 128_000,
            "rope_parameters": {"mrope_section": rope_section(hidden // heads), "rope_theta": 1_000_000.0},
        },
        "vision_config": {**VISION, "out_hidden_size": hidden},
        "tie_word_embeddings": tied,
    }


TINY_VIT = SamVisionOptions(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, global_attn_indexes=(1,))
VIT_H = SamVisionOptions(
    hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, global_attn_indexes=(7, 15, 23, 31)
)

_UNSAVED: dict[str, Any] = {"precision": "fp32", "lora": False, "checkpointing": False, "encoder": TINY_VIT}
_SAVED: dict[str, Any] = {"precision": "bf16", "lora": True, "checkpointing": True, "encoder": VIT_H}

SHAPES = {
    "tiny": Shape(sizes_of(32, 2, 2, 1), 32, 4, 2, 1, 84, **_UNSAVED, feature_grid=4),
    "small": Shape({}, 128, 32, 4, 1, 84, **_UNSAVED),
    "medium": Shape(sizes_of(512, 6, 8, 2), 256, 64, 8, 1, 84, **_UNSAVED),
    "qwen2_5_vl_3b": Shape(_qwen(2048, 36, 16, 2, 11008, 151_936, True), 700, 256, 8, 1, 672, **_SAVED),
    "qwen2_5_vl_7b": Shape(_qwen(3584, 28, 28, 4, 18944, 152_064, False), 700, 256, 8, 1, 672, **_SAVED),
}


class WholeVocabularyPolicy(HFPolicy):
    """Writes every token of the vocabulary, those without a word in the shipped tokenizer too.

    A tokenizer of the model's own has a word for nearly every row; suppressing 150,000 rows instead would slow
    ``generate`` down by work that real training does not have.
    """

    @cached_property
    def _forbidden_ids(self) -> list[int]:
        size = len(self.tokenizer)
        return [token_id for token_id in super()._forbidden_ids if token_id < size]
