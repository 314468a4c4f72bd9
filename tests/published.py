"""Public models as folders without weights: the sizes of their published config.json, a small processor of the family.

The folders are named like the models' ids on the hub; from the folder above, a config that names an id finds them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.benchmarks.shapes import SHAPES
from tests.policies.families import FAMILIES

PARAMETERS = {
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
    "llava-hf/llava-1.5-7b-hf": 7_063_427_072,
}
"""As their pages on the hub tell."""
SAM_ENCODERS = {"base": 89_670_912, "large": 308_278_272, "huge": 637_026_048}
"""Parameters of SAM's image encoders."""
SAM_DECODER = 3_511_244
"""Parameters of SAM's decoder, as far as one mask from a mask prompt needs them."""

_QWEN3_4B: dict[str, Any] = {
    "text_config": {
        "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 9728, "vocab_size": 151_936, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20],
                            "mrope_interleaved": True},
    },
    "vision_config": {
        "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "patch_size": 16,
        "out_hidden_size": 2560, "deepstack_visual_indexes": [5, 11, 17], "num_position_embeddings": 2304,
    },
    "tie_word_embeddings": True,
}  # fmt: skip
_LLAVA_7B: dict[str, Any] = {
    "text_config": {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "intermediate_size": 11_008, "vocab_size": 32_064, "head_dim": 128,
    },
    "vision_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 336, "patch_size": 14, "projection_dim": 768,
    },
    "image_seq_length": 576,
}  # fmt: skip
_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": ("qwen2_5_vl", SHAPES["qwen2_5_vl_3b"].overrides),
    "Qwen/Qwen2.5-VL-7B-Instruct": ("qwen2_5_vl", SHAPES["qwen2_5_vl_7b"].overrides),
    "Qwen/Qwen3-VL-4B-Instruct": ("qwen3_vl", _QWEN3_4B),
    "llava-hf/llava-1.5-7b-hf": ("llava", _LLAVA_7B),
}


def _set(config: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        nested = getattr(config, name, None)
        if isinstance(value, dict) and hasattr(nested, "to_dict"):
            _set(nested, value)
        elif isinstance(value, dict) and isinstance(nested, dict):
            setattr(config, name, {**nested, **value})
        else:
            if name == "num_hidden_layers" and hasattr(config, "layer_types"):
                config.layer_types = None
            setattr(config, name, value)


def write_policy(name: str, root: Path) -> Path:
    """One of :data:`PARAMETERS` as a folder below ``root``, without weights."""
    family, sizes = _MODELS[name]
    config, processor = FAMILIES[family]()
    _set(config, sizes)
    processor.save_pretrained(root / name)
    config.architectures = None
    content = type(config).from_dict({k: v for k, v in config.to_dict().items() if k != "architectures"})
    content.save_pretrained(root / name)
    return root / name


_SAM: dict[str, dict[str, Any]] = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "huge": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16},
}


def write_sam(root: Path, size: str = "huge") -> Path:
    """One of :data:`SAM_ENCODERS` as a folder below ``root``, without weights."""
    from transformers import SamConfig

    sizes = _SAM[size]
    layers = sizes["num_hidden_layers"]
    whole = list(range(layers // 4 - 1, layers, layers // 4))  # the layers that attend over the whole image
    folder = root / "facebook" / f"sam-vit-{size}"
    vision = {**sizes, "mlp_dim": 4 * sizes["hidden_size"], "global_attn_indexes": whole}
    SamConfig(vision_config=vision).save_pretrained(folder)
    return folder
