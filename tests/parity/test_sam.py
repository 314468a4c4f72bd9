"""SAM's image encoder, prompt encoder and mask decoder against the ``segment_anything`` package, with equal weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from coprs_lightning.backbones import SamBackbone
from coprs_lightning.decoders import SamMaskDecoder
from coprs_lightning.structures import NO_PRIOR_LOGIT
from tests.sam_original import CHANNELS, IMAGE_SIZE, build_original, save_original, shaken, to_transformers

pytest.importorskip("segment_anything", reason="parity with SAM needs the test extra: pip install segment-anything")

TOLERANCE = 1e-4


@dataclass
class Result:
    """What one SAM made of an image and a heatmap.

    Attributes:
        features: (1, C, h, w) of the image.
        dense: (1, C, h, w) embedding of the heatmap.
        positions: (1, C, h, w) of the grid.
        mask: (1, 1, 4h, 4w) logits.
    """

    features: Tensor
    dense: Tensor
    positions: Tensor
    mask: Tensor


def photo(side: int) -> tuple[Tensor, tuple[int, int]]:
    """A (1, 3, S, S) frame with noise on its padding too, and the (height, width) of the image in it."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, generator=generator), (side * 11 // 16, side)


def heatmap(side: int) -> Tensor:
    """(1, 1, S / 4, S / 4) logits of a blob with noise."""
    axis = torch.linspace(-1, 1, side)
    blob = 4 - 20 * ((axis[:, None] - 0.2) ** 2 + (axis[None] + 0.3) ** 2)
    return (blob + torch.randn(side, side, generator=torch.Generator().manual_seed(4)))[None, None]


def filled(logits: Tensor, valid: tuple[int, int], frame: int) -> Tensor:
    """The heatmap as the paper gives it to SAM: "nothing" beside the image, whose edge cells count as image."""
    side = logits.shape[-1]
    logits = logits.clone()
    logits[:, :, -(-valid[0] * side // frame) :] = NO_PRIOR_LOGIT
    logits[:, :, :, -(-valid[1] * side // frame) :] = NO_PRIOR_LOGIT
    return logits


@torch.no_grad()
def theirs(sam: Any, frame: Tensor, valid: tuple[int, int], logits: Tensor) -> Result:
    """The original, driven as its own predictor drives it."""
    image = frame[:, :, : valid[0], : valid[1]].float()
    features = sam.image_encoder(sam.preprocess(image))
    sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=filled(logits, valid, frame.shape[-1]))
    positions = sam.prompt_encoder.get_dense_pe()
    mask, _ = sam.mask_decoder(features, positions, sparse, dense, multimask_output=False)
    return Result(features, dense, positions, mask)


@torch.no_grad()
def ours(
    backbone: SamBackbone, decoder: SamMaskDecoder, frame: Tensor, valid: tuple[int, int], logits: Tensor
) -> Result:
    """Our two slots on the same image; the decoder fills the padding itself."""
    dense: list[Tensor] = []
    handle = decoder.mask_embed.register_forward_hook(lambda _, __, output: dense.append(output))
    valid_sizes = torch.tensor([valid])
    features = backbone(frame, valid_sizes)
    mask = decoder(features, logits, valid_sizes, frame.shape[-1])
    handle.remove()
    return Result(features, dense[0], decoder.grid_positions(*features.shape[-2:]), mask)


def differences(expected: Result, result: Result) -> dict[str, float]:
    """Largest absolute difference of each stage."""
    return {name: float((value - getattr(result, name)).abs().max()) for name, value in vars(expected).items()}


def check(expected: Result, result: Result, what: str, record: Callable[[str, object], None]) -> None:
    """Compare all stages and tell the largest differences, in the terminal (with -s) and in the JUnit record."""
    found = differences(expected, result)
    print(f"{what}: largest differences", ", ".join(f"{name} {value:.1e}" for name, value in found.items()))
    for name, value in found.items():
        record(f"{what}: {name}", value)
    assert {name for name, value in vars(expected).items() if value.std() < 0.3} == set()  # nothing that is all but 0
    assert {name: value for name, value in found.items() if not value <= TOLERANCE} == {}


@pytest.mark.parametrize(("source", "grid"), [("original file", 8), ("original file", 10), ("transformers folder", 8)])
def test_small(source, grid, tmp_path, record_property):
    if source == "original file":
        sam = save_original(tmp_path / "sam.pth", grid=grid)
        pretrained = str(tmp_path / "sam.pth")
    else:
        sam = build_original()
        to_transformers(sam, tmp_path)
        pretrained = str(tmp_path)
    backbone = SamBackbone(pretrained=pretrained).eval()
    decoder = SamMaskDecoder(in_channels=CHANNELS, pretrained=pretrained).eval()
    side = grid * IMAGE_SIZE // 8
    assert backbone.image_size == side
    frame, valid = photo(side)
    logits = heatmap(4 * grid)
    expected = theirs(sam, frame, valid, logits)
    check(expected, ours(backbone, decoder, frame, valid, logits), f"small, {source}", record_property)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["original file", "transformers folder"])
def test_vit_b_at_1024_px(source, tmp_path, record_property):
    from segment_anything import sam_model_registry

    # small noise for 12 layers: features stay in the range of trained ones
    sam = shaken(sam_model_registry["vit_b"](), 0.02)
    with torch.no_grad():
        for name, parameter in sam.mask_decoder.named_parameters():
            if name.startswith(("output_hypernetworks_mlps.0", "output_upscaling")):
                parameter.mul_(2)  # logits of a size that means something
    if source == "original file":
        pretrained = str(tmp_path / "sam_vit_b.pth")
        torch.save(sam.state_dict(), pretrained)
    else:
        pretrained = str(tmp_path)
        sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16}
        grid = {"image_size": 1024, "window_size": 14, "global_attn_indexes": [2, 5, 8, 11]}
        to_transformers(sam, tmp_path, **sizes, **grid, output_channels=256, num_pos_feats=128, mlp_dim=3072)
    backbone = SamBackbone(pretrained=pretrained).eval()
    decoder = SamMaskDecoder(in_channels=256, pretrained=pretrained).eval()
    assert (backbone.image_size, backbone.stride, backbone.out_channels) == (1024, 16, 256)
    frame, valid = photo(1024)
    logits = heatmap(256)
    expected = theirs(sam, frame, valid, logits)
    check(expected, ours(backbone, decoder, frame, valid, logits), f"ViT-B at 1024 px, {source}", record_property)


@pytest.mark.parametrize(
    ("name", "hidden", "layers", "heads", "over_all", "parameters"),
    [
        ("vit_b", 768, 12, 12, (2, 5, 8, 11), 89_670_912),
        ("vit_l", 1024, 24, 16, (5, 11, 17, 23), 308_278_272),
        ("vit_h", 1280, 32, 16, (7, 15, 23, 31), 637_026_048),
    ],
)
def test_the_published_sizes_have_as_many_parameters(name, hidden, layers, heads, over_all, parameters):
    from segment_anything import sam_model_registry

    from coprs_lightning.backbones import SamVisionOptions

    options = SamVisionOptions(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, global_attn_indexes=over_all
    )
    with torch.device("meta"):
        sam = sam_model_registry[name]()
        backbone = SamBackbone(config=options)
        decoder = SamMaskDecoder(in_channels=256)
    encoder = sum(p.numel() for p in backbone.parameters())
    assert encoder == sum(p.numel() for p in sam.image_encoder.parameters()) == parameters
    assert all(p.is_meta for part in (backbone, decoder) for p in part.parameters())
    assert sorted(tuple(p.shape) for p in backbone.parameters()) == sorted(
        tuple(p.shape) for p in sam.image_encoder.parameters()
    )
