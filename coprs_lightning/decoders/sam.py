"""The paper's decoder: SAM's mask decoder with the heatmap as dense mask prompt (paper section 3, ``paper.md`` 1.2).

Only the parts that a mask prompt and a single mask need are kept: SAM's point, box and "no mask" embeddings, its IoU head
and the hypernetworks of the three further masks would get no gradient (and stall distributed training).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coprs_lightning.component import check_positive
from coprs_lightning.decoders.base import MaskDecoder
from coprs_lightning.geometry import valid_mask
from coprs_lightning.structures import NO_PRIOR_LOGIT


class SamMaskDecoder(MaskDecoder):
    """SAM's prompt encoder (its mask path) and two-way mask decoder, batched over images and queries.

    Args:
        hidden_size: width of the decoder; features of another width are projected to it.
        num_layers: two-way attention layers.
        num_attention_heads: heads of every attention layer.
        mlp_dim: width of the layers' MLPs.
        attention_downsample_rate: factor by which the cross attention is narrower than ``hidden_size``.
        mask_input_channels: channels inside the embedding of the mask prompt.
        pretrained: hub id or folder of a transformers SAM checkpoint (``facebook/sam-vit-huge``): its prompt encoder and
            mask decoder are loaded, strictly, and the sizes above come from it.
        prompt_lr_multiplier: learning-rate multiplier of the prompt encoder (the paper: 10, with 5 for the decoder);
            ``null`` uses ``lr_multiplier``.
        kwargs: ``in_channels`` and what :class:`~coprs_lightning.component.Component` takes.

    Raises:
        ValueError: for sizes that do not fit together, or a checkpoint that lacks weights.
    """

    def __init__(
        self,
        *,
        hidden_size: int = 256,
        num_layers: int = 2,
        num_attention_heads: int = 8,
        mlp_dim: int = 2048,
        attention_downsample_rate: int = 2,
        mask_input_channels: int = 16,
        pretrained: str | None = None,
        prompt_lr_multiplier: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        sizes = {
            "hidden_size": hidden_size,
            "num_attention_heads": num_attention_heads,
            "mlp_dim": mlp_dim,
            "attention_downsample_rate": attention_downsample_rate,
            "mask_input_channels": mask_input_channels,
        }
        check_positive(self, num_layers=num_layers, **sizes)
        self.prompt_lr_multiplier = self.lr_multiplier if prompt_lr_multiplier is None else prompt_lr_multiplier
        if pretrained is None:
            _check_sizes(hidden_size, num_attention_heads, attention_downsample_rate, mask_input_channels)
            prompt_encoder, mask_decoder = _build(num_layers, sizes)
        else:
            prompt_encoder, mask_decoder = _load(pretrained)
        self.mask_embed: nn.Module = prompt_encoder.mask_embed
        self.position_embed: nn.Module = prompt_encoder.shared_embedding
        self.position_embed.requires_grad_(False)  # random Fourier features: SAM never trains them
        self.mask_decoder = _single_mask(mask_decoder)
        self.hidden_size = int(mask_decoder.hidden_size)
        self.project = _projection(self.in_channels, self.hidden_size)

    def forward(self, features: Tensor, heatmap_logits: Tensor, valid_sizes: Tensor, frame: int) -> Tensor:
        """See :meth:`MaskDecoder.forward`."""
        self.check_inputs(features, heatmap_logits)
        batch, count = heatmap_logits.shape[:2]
        height, width = features.shape[-2:]
        size = (4 * height, 4 * width)
        prior = heatmap_logits
        if tuple(prior.shape[-2:]) != size:
            prior = F.interpolate(prior, size, mode="bilinear", align_corners=False)
        # padding must look empty to the decoder, whatever the head says about it
        prior = prior.masked_fill(~valid_mask(valid_sizes, size, frame), NO_PRIOR_LOGIT)
        dense = self.mask_embed(prior.flatten(0, 1)[:, None])
        image = self.project(features).repeat_interleave(count, 0)
        positions = self.grid_positions(height, width).to(image.dtype).expand(batch * count, -1, -1, -1)
        masks, _ = self.mask_decoder(
            image_embeddings=image,
            image_positional_embeddings=positions,
            sparse_prompt_embeddings=None,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return masks[:, 0, 0].unflatten(0, (batch, count))

    def grid_positions(self, height: int, width: int) -> Tensor:
        """(1, C, h, w) position embedding of the cell centres of a feature grid."""
        weight = next(self.position_embed.parameters())
        y = (torch.arange(height, device=weight.device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=weight.device, dtype=torch.float32) + 0.5) / width
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        embedding: Tensor = self.position_embed(grid)
        return embedding.permute(2, 0, 1)[None]

    def parameter_groups(self, learning_rate: float, name: str) -> list[dict[str, Any]]:
        """Prompt encoder and mask decoder as two groups: the paper trains them at different rates."""
        prompt = {id(p) for p in self.mask_embed.parameters()}
        groups = []
        for own, multiplier, suffix in ((True, self.prompt_lr_multiplier, "/prompt"), (False, self.lr_multiplier, "")):
            parameters = [p for p in self.parameters() if p.requires_grad and (id(p) in prompt) is own]
            if parameters:
                groups.append({"params": parameters, "lr": learning_rate * multiplier, "name": name + suffix})
        return groups


def _check_sizes(hidden_size: int, heads: int, downsample: int, mask_channels: int) -> None:
    if hidden_size % (heads * downsample) or hidden_size % 8:
        raise ValueError(
            f"SamMaskDecoder.hidden_size {hidden_size} must be a multiple of 8 and of num_attention_heads {heads} × "
            f"attention_downsample_rate {downsample}: heads need equal width and the upscaling divides it by 8."
        )
    if mask_channels % 4:
        raise ValueError(f"SamMaskDecoder.mask_input_channels must be a multiple of 4, got {mask_channels}.")


def _build(num_layers: int, sizes: dict[str, int]) -> tuple[Any, Any]:
    """Prompt encoder and mask decoder with random weights."""
    from transformers import SamConfig
    from transformers.models.sam import modeling_sam

    config = SamConfig(
        vision_config={"num_pos_feats": sizes["hidden_size"] // 2},
        prompt_encoder_config={
            "hidden_size": sizes["hidden_size"],
            "mask_input_channels": sizes["mask_input_channels"],
        },
        mask_decoder_config={
            "hidden_size": sizes["hidden_size"],
            "num_hidden_layers": num_layers,
            "num_attention_heads": sizes["num_attention_heads"],
            "mlp_dim": sizes["mlp_dim"],
            "attention_downsample_rate": sizes["attention_downsample_rate"],
        },
    )
    # transformers draws the frequencies with a standard deviation of hidden_size / 2, which is noise from one cell to the
    # next; SAM itself was trained with 1
    config.vision_config.scale = 1.0
    config.mask_decoder_config._attn_implementation = "sdpa"
    return modeling_sam.SamPromptEncoder(config), modeling_sam.SamMaskDecoder(config.mask_decoder_config)


def _load(pretrained: str) -> tuple[Any, Any]:
    """Prompt encoder and mask decoder of a SAM checkpoint; a missing weight is an error, not a random number."""
    from transformers import SamModel

    model, info = SamModel.from_pretrained(pretrained, output_loading_info=True)
    bad = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in info[kind])
    if bad:
        raise ValueError(
            f"SamMaskDecoder.pretrained: {pretrained} lacks {len(bad)} weights of SAM ({', '.join(bad[:3])} …); they would "
            "stay random. Give the folder or hub id of a complete SamModel, such as facebook/sam-vit-huge."
        )
    return model.prompt_encoder, model.mask_decoder


def _single_mask(decoder: Any) -> nn.Module:
    """Drop what only the IoU score and the three further masks need.

    All four mask tokens stay: they take part in the attention between tokens.
    """
    decoder.output_hypernetworks_mlps = decoder.output_hypernetworks_mlps[:1]
    decoder.num_mask_tokens = 1
    decoder.iou_prediction_head = nn.Identity()
    return decoder


def _projection(in_channels: int, hidden_size: int) -> nn.Module:
    """Bring features to the decoder's width, normalised over channels as SAM's own neck leaves them."""
    if in_channels == hidden_size:
        return nn.Identity()
    from transformers.models.sam.modeling_sam import SamLayerNorm

    return nn.Sequential(
        nn.Conv2d(in_channels, hidden_size, 1, bias=False), SamLayerNorm(hidden_size, data_format="channels_first")
    )
