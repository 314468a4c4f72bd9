"""Small checkpoints of every family of image-text-to-text models, in the public formats: folders to load from."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from coprs_lightning.policies.build_small import CHAT_TEMPLATE, train_tokenizer
from coprs_lightning.policies.loading import SHIPPED

WIDTH = 32
WIDE: dict[str, Any] = {"initializer_range": 0.3}
"""Wide enough that positions and pixels change the hidden states by far more than rounding."""
TEXT: dict[str, Any] = {
    "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 4096, **WIDE,
}  # fmt: skip
TOWER: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14,
    **WIDE,
}  # fmt: skip
MARKUP = ["<think>", "</think>"]
VICUNA_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] != 'system' -%}{{ message['role'].upper() }}: {% endif -%}
{%- for part in message['content'] if part['type'] == 'image' -%}<image>{{ '\n' }}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{{ ' ' }}{%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}ASSISTANT:{%- endif -%}
"""
SMOL_TEMPLATE = """\
<|im_start|>
{%- for message in messages -%}
{{ message['role'] | capitalize }}:
{%- if message['content'][0]['type'] != 'image' %} {% endif -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<image>{%- else -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
<end_of_utterance>{{ '\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}Assistant:{%- endif -%}
"""


@functools.cache
def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Of a byte-level BPE."""
    return train_tokenizer((SHIPPED / "words.txt").read_text(encoding="utf-8").split())


@functools.cache
def sentencepiece_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Of a BPE over characters with bytes for the others, as Llama's: spaces are ``▁``, no pre-tokenisation."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = (SHIPPED / "words.txt").read_text(encoding="utf-8").split()
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=3000, min_frequency=1, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(words, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def add(tokenizer: Any, special: list[str], plain: list[str] = MARKUP) -> Any:
    """Put tokens into a tokenizer as public checkpoints do."""
    from transformers import AddedToken

    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in plain])
    return tokenizer


def qwen_tokenizer(special: list[str]) -> Any:
    """A tokenizer of the Qwen models with placeholders of their own."""
    from transformers import Qwen2Tokenizer

    vocab, merges = vocabulary()
    kind: Any = Qwen2Tokenizer
    tokenizer = kind(vocab=vocab, merges=merges, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return add(tokenizer, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special])


def padded(tokenizer: Any) -> int:
    """Rows as public models have them: more than tokens."""
    return -(-(len(tokenizer) + 1) // 64) * 64


def ids_of(tokenizer: Any) -> dict[str, Any]:
    """Ends of texts, for a text configuration."""
    return {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id}  # fmt: skip


def qwen2_5_vl() -> tuple[Any, Any]:
    """Configuration and processor of the shipped small Qwen2.5-VL."""
    from transformers import AutoConfig, AutoProcessor

    folder = SHIPPED / "small_qwen2_5_vl"
    config, processor = AutoConfig.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    for name, value in {**TEXT, "rope_parameters": rope, "layer_types": ["full_attention"] * 2}.items():
        setattr(config.text_config, name, value)
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": WIDTH,
              "fullatt_block_indexes": [0], **WIDE}  # fmt: skip
    for name, value in vision.items():
        setattr(config.vision_config, name, value)
    processor.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 84 * 84}
    return config, processor


def qwen3_vl() -> tuple[Any, Any]:
    """Untied embeddings; patches of 16; features of two vision layers go into two layers of the text model."""
    from transformers import Qwen3VLConfig, Qwen3VLProcessor, Qwen3VLVideoProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    tokenizer = qwen_tokenizer(["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"])
    vision: dict[str, Any] = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    halves: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    size = {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(**vision, **halves, size=size), tokenizer,
        Qwen3VLVideoProcessor(**vision, **halves, size=size), chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        # what the last layer adds to an image token reaches no other token
        text_config={**TEXT, **ids_of(tokenizer), "num_hidden_layers": 3, "vocab_size": padded(tokenizer),
                     "head_dim": 16, "rope_parameters": rope, "tie_word_embeddings": False},
        vision_config={"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": WIDTH,
                       "patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1], **WIDE},
        image_token_id=processor.image_token_id, video_token_id=processor.video_token_id,
        vision_start_token_id=processor.vision_start_token_id, vision_end_token_id=processor.vision_end_token_id,
        tie_word_embeddings=False,
    )  # fmt: skip
    return config, processor


def llava() -> tuple[Any, Any]:
    """LLaVA-1.5: a Llama with its sentencepiece-like tokenizer, a beginning of text, and no end of turn."""
    from transformers import CLIPImageProcessor, LlamaTokenizer, LlavaConfig, LlavaProcessor

    vocab, merges = sentencepiece_vocabulary()
    kind: Any = LlamaTokenizer
    tokenizer = add(kind(vocab=vocab, merges=merges), ["<image>", "<pad>"])
    tokenizer.pad_token = "<pad>"
    images = CLIPImageProcessor(size={"shortest_edge": 42}, crop_size={"height": 42, "width": 42})
    processor = LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", chat_template=VICUNA_TEMPLATE,
        num_additional_image_tokens=1,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config={**TOWER, "model_type": "clip_vision_model", "image_size": 42, "projection_dim": 16,
                       "initializer_factor": 10.0},
        text_config={**TEXT, **ids_of(tokenizer), "model_type": "llama", "vocab_size": padded(tokenizer)},
        image_token_index=processor.image_token_id, image_seq_length=9,
    )  # fmt: skip
    return config, processor


def llava_onevision() -> tuple[Any, Any]:
    """LLaVA-OneVision: images cut into a grid that fits their shape, rows ending in a learnt line break."""
    from transformers import LlavaOnevisionConfig, LlavaOnevisionProcessor
    from transformers.models.llava_onevision.image_processing_llava_onevision import LlavaOnevisionImageProcessor
    from transformers.models.llava_onevision.video_processing_llava_onevision import LlavaOnevisionVideoProcessor

    tokenizer = qwen_tokenizer(["<image>", "<video>"])
    grids = [[28 * rows, 28 * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    side = {"height": 28, "width": 28}
    images = LlavaOnevisionImageProcessor(
        size=side, image_grid_pinpoints=grids, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    template = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>\n")
    processor = LlavaOnevisionProcessor(
        images, tokenizer, LlavaOnevisionVideoProcessor(size=side), num_image_tokens=4,
        vision_feature_select_strategy="full", chat_template=template, vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip
    config = LlavaOnevisionConfig(
        vision_config={**TOWER, "model_type": "siglip_vision_model", "image_size": 28, "vision_use_head": False},
        text_config={**TEXT, **ids_of(tokenizer), "model_type": "qwen2", "vocab_size": padded(tokenizer),
                     "tie_word_embeddings": True},
        image_token_index=processor.image_token_id, video_token_index=processor.video_token_id,
        image_grid_pinpoints=grids, tie_word_embeddings=True,
    )  # fmt: skip
    return config, processor


def smolvlm() -> tuple[Any, Any]:
    """SmolVLM: images split into tiles with markers around them; turns end with a token that is not Qwen's."""
    from transformers import GPT2Tokenizer, SmolVLMConfig, SmolVLMProcessor
    from transformers.models.smolvlm.image_processing_smolvlm import SmolVLMImageProcessor
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    vocab, merges = vocabulary()
    kind: Any = GPT2Tokenizer
    tokenizer = kind(vocab=vocab, merges=merges, bos_token="<|im_start|>", eos_token="<end_of_utterance>",
                     unk_token="<|endoftext|>", pad_token="<|im_end|>")  # fmt: skip
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<global-img>", *tiles,
               "<fake_token_around_image>", "<image>", "<end_of_utterance>"]  # fmt: skip
    add(tokenizer, special)
    largest: dict[str, Any] = {"size": {"longest_edge": 84}, "max_image_size": {"longest_edge": 28}}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(**largest), tokenizer,
        SmolVLMVideoProcessor(**largest, video_sampling={"fps": 1, "max_frames": 4}),
        image_seq_len=1, chat_template=SMOL_TEMPLATE,
    )  # fmt: skip
    config = SmolVLMConfig(
        vision_config={**TOWER, "image_size": 28},
        text_config={**TEXT, **ids_of(tokenizer), "model_type": "llama", "vocab_size": len(tokenizer)},
        image_token_id=processor.image_token_id, scale_factor=2, tie_word_embeddings=False,
    )  # fmt: skip
    return config, processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    family.__name__: family for family in (qwen2_5_vl, qwen3_vl, llava, llava_onevision, smolvlm)
}


def save_family(name: str, folder: Path) -> Path:
    """Configuration, processor and random weights, always the same, of a family of :data:`FAMILIES`."""
    from transformers import AutoModelForImageTextToText

    config, processor = FAMILIES[name]()
    torch.manual_seed(11)
    lm = AutoModelForImageTextToText.from_config(config)
    lm.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
