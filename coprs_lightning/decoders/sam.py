"""The paper's decoder: SAM's mask decoder with the heatmap as dense mask prompt (paper section 3).

Only the parts that a mask prompt and a single mask need are kept: SAM's point, box and "no mask" embeddings, its IoU
head and the hypernetworks of the three further masks would get no gradient (and stall distributed training).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coprs_lightning.component import check_positive
from coprs_lightning.decoders.base import MaskDecoder
from coprs_lightning.decoders.prior import masked_prior
from coprs_lightning.decoders.sam_parts import pretrained_parts, projection, random_parts, single_mask, sizes_of


class SamMaskDecoder(MaskDecoder):
    """SAM's prompt encoder (its mask path) and two-way mask decoder, batched over images and queries.

    Args:
        hidden_size: width of the decoder; features of another width are projected to it.
        num_layers: two-way attention layers.
        num_attention_heads: heads of every attention layer.
        mlp_dim: width of the layers' MLPs.
        attention_downsample_rate: factor by which the cross attention is narrower than ``hidden_size``.
        mask_input_channels: channels inside the embedding of the mask prompt.
        layer_norm_eps: ε of the attention layers' norms; 1e-5 in the original package, 1e-6 in transformers.
        pretrained: hub id or folder of a transformers SAM checkpoint (``facebook/sam-vit-huge``), or an original file
            (``sam_vit_h_4b8939.pth``): its prompt encoder and mask decoder are loaded, strictly, and what is above
            comes from it.
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
        layer_norm_eps: float = 1e-6,
        pretrained: str | None = None,
        prompt_lr_multiplier: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        sizes = {
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_attention_heads": num_attention_heads,
            "mlp_dim": mlp_dim,
            "attention_downsample_rate": attention_downsample_rate,
            "mask_input_channels": mask_input_channels,
        }
        check_positive(self, **sizes)
        self.prompt_lr_multiplier = self.lr_multiplier if prompt_lr_multiplier is None else prompt_lr_multiplier
        if pretrained is None:
            prompt_encoder, mask_decoder = random_parts(**sizes, layer_norm_eps=layer_norm_eps)
        else:
            prompt_encoder, mask_decoder = pretrained_parts(pretrained)
        self.mask_embed: nn.Module = prompt_encoder.mask_embed
        self.position_embed: nn.Module = prompt_encoder.shared_embedding
        self.position_embed.requires_grad_(False)  # random Fourier features: SAM never trains them
        self.mask_decoder = single_mask(mask_decoder)
        self.hidden_size = int(mask_decoder.hidden_size)
        self.project = projection(self.in_channels, self.hidden_size)

    def forward(self, features: Tensor, heatmap_logits: Tensor, valid_sizes: Tensor, frame: int) -> Tensor:
        """See :meth:`MaskDecoder.forward`."""
        self.check_inputs(features, heatmap_logits)
        batch, count = heatmap_logits.shape[:2]
        height, width = features.shape[-2:]
        prior = masked_prior(heatmap_logits, (4 * height, 4 * width), valid_sizes, frame)
        dense = self.mask_embed(prior.flatten(0, 1)[:, None])
        image = self.project(features).repeat_interleave(count, 0)
        positions = self.grid_positions(height, width).to(image.dtype).expand(batch * count, -1, -1, -1)
        # sparse prompts None: SAM with a mask prompt alone has no point or box tokens
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
        device = next(self.position_embed.parameters()).device
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        # the phases are too coarse in bf16: neighbouring cells would share a position
        with torch.autocast(device.type, enabled=False):
            embedding: Tensor = self.position_embed(grid)
        return embedding.permute(2, 0, 1)[None]

    def portable_spec(self, folder: Path | None = None) -> dict[str, Any]:
        """See :meth:`Component.portable_spec`: the sizes in place of the checkpoint that gave them."""
        spec = self.spec
        return {**spec, "init_args": {**spec["init_args"], **sizes_of(self), "pretrained": None}}

    def parameter_groups(self, learning_rate: float, name: str) -> list[dict[str, Any]]:
        """Prompt encoder and mask decoder as two groups: the paper trains them at different rates."""
        prompt = {id(p) for p in self.mask_embed.parameters()}
        groups = []
        for own, multiplier, suffix in ((True, self.prompt_lr_multiplier, "/prompt"), (False, self.lr_multiplier, "")):
            parameters = [p for p in self.parameters() if p.requires_grad and (id(p) in prompt) is own]
            if parameters:
                groups.append({"params": parameters, "lr": learning_rate * multiplier, "name": name + suffix})
        return groups
