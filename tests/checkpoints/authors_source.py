"""A small checkpoint in the layout of the paper's released code, made with the classes that it was made with."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tests.parts import small_policy

HIDDEN = 16
GRID = 8


class Head(nn.Module):
    """Their heatmap head's weights, by the names of the paper's code."""

    def __init__(self, width: int, refine: bool = True) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, HIDDEN, bias=False)
        self.k_proj = nn.Conv2d(HIDDEN, HIDDEN, 1, bias=False)
        last = nn.Conv2d(4, 1, 3, padding=1)
        self.fuser = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.SiLU(), last)
        if not refine:
            self.fuser = nn.Sequential(nn.Conv2d(4, 1, 1))


class Modules(nn.Module):
    """What ``refseg_modules.pt`` holds."""

    def __init__(self, width: int, refine: bool = True) -> None:
        super().__init__()
        from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

        self.heatmap_head = Head(width, refine)
        self.prompt_encoder = PromptEncoder(
            embed_dim=HIDDEN,
            image_embedding_size=(GRID, GRID),
            input_image_size=(8 * GRID, 8 * GRID),
            mask_in_chans=8,
        )
        self.mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=HIDDEN, mlp_dim=32, num_heads=8),
            transformer_dim=HIDDEN,
            iou_head_depth=3,
            iou_head_hidden_dim=16,
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))


def save_authors(folder: Path, *, refine: bool = True, dtype: torch.dtype = torch.float32) -> Modules:
    """Write ``refseg_modules.pt`` and ``llm_hf``."""
    policy = small_policy()
    torch.manual_seed(5)
    modules = Modules(policy.hidden_size, refine).to(dtype).eval()
    folder.mkdir(parents=True)
    torch.save(modules.state_dict(), folder / "refseg_modules.pt")
    policy.lm.to(dtype).save_pretrained(folder / "llm_hf")
    policy.processor.save_pretrained(folder / "llm_hf")
    return modules


def saved(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint in their layout."""
    from safetensors.torch import load_file

    found: dict[str, Tensor] = torch.load(folder / "refseg_modules.pt", weights_only=True)
    for file in sorted((folder / "llm_hf").glob("*.safetensors")):
        found = {**found, **{f"llm_hf {name}": value for name, value in load_file(file).items()}}
    return found
