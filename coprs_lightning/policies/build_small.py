"""Make the shipped ``small_qwen2_5_vl``: configuration and processor of a small Qwen2.5-VL, without weights.

    python -m coprs_lightning.policies.build_small

The tokenizer is a byte-level BPE with Qwen's pre-tokenisation, trained on ``shipped/words.txt`` so that each of those
words is one token (three where it has a hyphen) and any other text still encodes. Everything is saved in the format
of a public checkpoint and loaded by the same code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coprs_lightning.policies.loading import SHIPPED

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
MARKUP = ["<think>", "</think>"]
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""
PATCH, MERGE, SIDE = 14, 2, 112


def train_tokenizer(words: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE in which every word, after a space or not, is one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for word in words for text in (word, f" {word}")), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def build(output: Path) -> None:
    """Write configuration and processor into ``output``."""
    from transformers import AddedToken, Qwen2_5_VLConfig, Qwen2_5_VLProcessor, Qwen2Tokenizer
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    vocab, merges = train_tokenizer((SHIPPED / "words.txt").read_text(encoding="utf-8").split())
    qwen_tokenizer: Any = Qwen2Tokenizer  # its hints know no merges in pairs
    tokenizer = qwen_tokenizer(vocab=vocab, merges=merges, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in MARKUP])
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    sizes = {"shortest_edge": SIDE * SIDE // 2, "longest_edge": SIDE * SIDE}
    vision: dict[str, Any] = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2, "size": sizes}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**vision), tokenizer, Qwen2VLVideoProcessor(**vision), chat_template=CHAT_TEMPLATE
    )
    config = Qwen2_5_VLConfig(
        text_config={
            # room for the concentration token, as public models have
            "vocab_size": -(-(len(tokenizer) + 1) // 64) * 64,
            "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "layer_types": ["full_attention"] * 3, "tie_word_embeddings": True, "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 128,
            "patch_size": PATCH, "spatial_merge_size": MERGE, "window_size": 112, "fullatt_block_indexes": [0, 1],
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )  # fmt: skip
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    output.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(output)
    processor.save_pretrained(output)


if __name__ == "__main__":
    build(SHIPPED / "small_qwen2_5_vl")
