"""SAM in its original form: the files of the ``segment_anything`` package, and their names in transformers.

``sam_vit_b_01ec64.pth``, ``sam_vit_l_0b3195.pth`` and ``sam_vit_h_4b8939.pth`` hold one flat state dict of three parts:
``image_encoder``, ``prompt_encoder`` and ``mask_decoder``. The tables here know every name in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_SHOWN = 8


def is_original(pretrained: str | Path) -> bool:
    """Whether ``pretrained`` names a file (original) rather than a folder or a hub id (transformers)."""
    return Path(pretrained).suffix in (".pth", ".pt") or Path(pretrained).is_file()


def read_original(file: str | Path, option: str) -> dict[str, Tensor]:
    """The tensors of an original SAM file by name, without running code from it; they stay on disk until used.

    Args:
        file: the ``.pth`` file.
        option: name of the option that gave it, for messages.

    Raises:
        ValueError: for a file that is missing, broken, holds code, or holds anything but named tensors.
    """
    if not Path(file).is_file():
        raise ValueError(f"{option}: there is no file {file}. Give the path of sam_vit_b/l/h_*.pth.")
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load raises many kinds; the file is what is wrong with all of them
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{option}: {file} cannot be read as weights (it is broken, of a torch before 1.6, or holds code, which is "
            f"never run): {reason}. Download it again from the address in segment_anything's README."
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(
            f"{option}: {file} does not hold named tensors alone, as SAM's released files do. If it is a checkpoint of "
            "a training, take its model's state dict out of it and save that."
        )
    return {str(name): value for name, value in content.items()}


def count_layers(names: Iterable[str], prefix: str) -> int:
    """Number of different ``n`` in the names ``<prefix><n>.…``."""
    return len({name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)})


def encoder_names(layers: int) -> dict[str, str]:
    """The image encoder's weights: name in transformers' SAM by original name."""
    pairs = {"pos_embed": "pos_embed", **_both("patch_embed.proj", "patch_embed.projection")}
    for layer in range(layers):
        old, new = f"blocks.{layer}", f"layers.{layer}"
        for kind in ("rel_pos_h", "rel_pos_w"):
            pairs[f"{old}.attn.{kind}"] = f"{new}.attn.{kind}"
        for part in ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2"):
            pairs |= _both(f"{old}.{part}", f"{new}.{part}")
        for norm in (1, 2):
            pairs |= _both(f"{old}.norm{norm}", f"{new}.layer_norm{norm}")
    pairs |= {"neck.0.weight": "neck.conv1.weight", "neck.2.weight": "neck.conv2.weight"}
    pairs |= _both("neck.1", "neck.layer_norm1") | _both("neck.3", "neck.layer_norm2")
    return {f"image_encoder.{old}": f"vision_encoder.{new}" for old, new in pairs.items()}


def prompt_and_decoder_names(layers: int = 2) -> dict[str, str]:
    """The weights of prompt encoder and mask decoder: name in transformers' ``SamModel`` by original name."""
    return {
        **{f"prompt_encoder.{old}": f"prompt_encoder.{new}" for old, new in _prompt_encoder()},
        **{f"mask_decoder.{old}": f"mask_decoder.{new}" for old, new in _mask_decoder(layers)},
    }


def _both(old: str, new: str) -> dict[str, str]:
    return {f"{old}.{kind}": f"{new}.{kind}" for kind in ("weight", "bias")}


def _prompt_encoder() -> Iterator[tuple[str, str]]:
    yield "pe_layer.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"
    for point in range(4):
        yield f"point_embeddings.{point}.weight", f"point_embed.{point}.weight"
    for name in ("not_a_point_embed.weight", "no_mask_embed.weight"):
        yield name, name
    for place, new in ((0, "conv1"), (1, "layer_norm1"), (3, "conv2"), (4, "layer_norm2"), (6, "conv3")):
        yield from _both(f"mask_downscaling.{place}", f"mask_embed.{new}").items()


def _mask_decoder(layers: int) -> Iterator[tuple[str, str]]:
    for name in ("iou_token.weight", "mask_tokens.weight"):
        yield name, name
    attentions = ["transformer.final_attn_token_to_image"]
    for layer in range(layers):
        start = f"transformer.layers.{layer}"
        attentions += [f"{start}.{a}" for a in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")]
        for norm in range(1, 5):
            yield from _both(f"{start}.norm{norm}", f"{start}.layer_norm{norm}").items()
        for linear in ("lin1", "lin2"):
            yield from _both(f"{start}.mlp.{linear}", f"{start}.mlp.{linear}").items()
    for attention in attentions:
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _both(f"{attention}.{name}", f"{attention}.{name}").items()
    yield from _both("transformer.norm_final_attn", "transformer.layer_norm_final_attn").items()
    for place, new in ((0, "upscale_conv1"), (1, "upscale_layer_norm"), (3, "upscale_conv2")):
        yield from _both(f"output_upscaling.{place}", new).items()
    for mlp in (*(f"output_hypernetworks_mlps.{mask}" for mask in range(4)), "iou_prediction_head"):
        for old, new in (("layers.0", "proj_in"), ("layers.1", "layers.0"), ("layers.2", "proj_out")):
            yield from _both(f"{mlp}.{old}", f"{mlp}.{new}").items()


def check_names(given: Iterable[str], needed: Iterable[str], unused: Iterable[str], option: str) -> None:
    """Refuse a file whose names are not exactly those that are needed and those that are known to be of no use.

    Args:
        given: names in the file.
        needed: names that must be there.
        unused: names that may be there and have no place.
        option: ``<option>: <file>``, for messages.

    Raises:
        ValueError: naming what is missing and what is left over.
    """
    given, needed = set(given), set(needed)
    problems = [f"missing: {name}" for name in sorted(needed - given)]
    problems += [f"left over: {name}" for name in sorted(given - needed - set(unused))]
    if problems:
        raise ValueError(
            f"{option} does not hold exactly the weights of a SAM, so nothing was loaded. Give sam_vit_b/l/h_*.pth as "
            f"they were released.{_lines(problems)}"
        )


def dimensions(weights: Mapping[str, Tensor], name: str, count: int, option: str) -> tuple[int, ...]:
    """Shape of one weight that tells a size.

    Raises:
        ValueError: where it has another number of dimensions, or none of a size.
    """
    shape = tuple(weights[name].shape)
    if len(shape) != count or not all(shape):
        raise ValueError(
            f"{option} does not hold the weights of a SAM, so nothing was loaded: {name} is {shape}, and has {count} "
            "dimensions in SAM. Give sam_vit_b/l/h_*.pth as they were released."
        )
    return shape


def fill(module: nn.Module, weights: Mapping[str, Tensor], originals: Mapping[str, str], option: str) -> None:
    """Copy weights into a module that has exactly these.

    Args:
        module: what to fill.
        weights: by the module's names.
        originals: name in the file for each, for messages.
        option: ``<option>: <file>``, for messages.

    Raises:
        ValueError: naming what has another shape.
    """
    state: dict[str, Tensor] = module.state_dict()
    problems = [
        f"{originals[name]} is {tuple(weights[name].shape)}, the model's {name} is {tuple(value.shape)}"
        for name, value in state.items()
        if weights[name].shape != value.shape
    ]
    if problems:
        raise ValueError(
            f"{option} holds weights whose shapes do not fit each other, so nothing was loaded. Give "
            f"sam_vit_b/l/h_*.pth as they were released.{_lines(problems)}"
        )
    module.load_state_dict(dict(weights))


def _lines(problems: list[str]) -> str:
    more = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    return "".join(f"\n  {line}" for line in [*problems[:_SHOWN], *more])
