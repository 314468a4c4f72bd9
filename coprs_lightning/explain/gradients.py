"""What moves the mask and what moves the heatmap: gradients through the decoder, and back to the words.

A gradient tells what a very small change would do. Words are not small changes, so :func:`left_out` measures beside it
what the heatmap does without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from coprs_lightning.explain.case import Case, View, evaluated
from coprs_lightning.explain.heatmaps import mask_heatmap
from coprs_lightning.explain.words import transformers_parts
from coprs_lightning.structures import Completions, SegmentationOutput

_AT_A_TIME = 16  # completions without one word each


def soft_iou(mask_logits: Tensor, region: Tensor) -> Tensor:
    """IoU of mask probabilities with a region: Σ p·r / Σ (p + r - p·r).

    Args:
        mask_logits: (n, H, W), of which the union counts.
        region: (H, W) in [0, 1].
    """
    probability = mask_logits.amax(0).float().sigmoid()
    common = (probability * region).sum()
    return common / (probability.sum() + region.sum() - common)


def share_inside(heatmap_logits: Tensor, region: Tensor, valid: Tensor) -> Tensor:
    """Share of a heatmap's probability that lies in a region.

    Args:
        heatmap_logits: (…, n, H', W'), of which the union counts.
        region: (H', W') in [0, 1].
        valid: (H', W') bool, cells that are image.

    Returns:
        (…) in [0, 1].
    """
    probability = heatmap_logits.amax(-3).float().sigmoid() * valid
    return (probability * region).sum((-2, -1)) / probability.sum((-2, -1)).clamp_min(1e-12)


def region_on_grid(view: View, region: Tensor) -> Tensor:
    """A region of the image (H, W), bool or in [0, 1], on the grid of the heatmaps (H', W')."""
    return view.resized(region[None].float())[0].clamp(0, 1) * view.inside


def heatmap_gradient(view: View, heatmap_logits: Tensor, region: Tensor) -> tuple[float, Tensor]:
    """How the mask's IoU with a region changes with the heatmap.

    Args:
        view: the image.
        heatmap_logits: (n, H', W'), see :meth:`View.decode`.
        region: (H, W) bool.

    Returns:
        :func:`soft_iou`, and its gradient (n, H', W') with respect to the logits.
    """
    leaf = heatmap_logits.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        score = soft_iou(view.to_image(view.decode(leaf)), region.to(leaf))
        (gradient,) = torch.autograd.grad(score, leaf)
    return float(score.detach()), gradient


@dataclass
class BestHeatmap:
    """What :func:`optimise_heatmap` found.

    Attributes:
        logits: (H', W') on the grid of the heatmaps, for :meth:`View.decode`.
        mask_logits: (H, W) of the mask that it gives.
        scores: :func:`soft_iou` before every step and at the end.
    """

    logits: Tensor
    mask_logits: Tensor
    scores: list[float] = field(default_factory=list)


def optimise_heatmap(
    view: View, region: Tensor, start: Tensor | None = None, *, steps: int = 50, learning_rate: float = 0.5
) -> BestHeatmap:
    """Search a heatmap whose mask is a region, by gradient ascent (Adam) through the decoder; no weight changes.

    What it reaches bounds from below what the decoder can do with this image, whatever the policy says.

    Args:
        view: the image.
        region: (H, W) bool, the mask that is wanted.
        start: (H', W') logits to start from; ``None`` starts from the region drawn as a heatmap. (An undecided heatmap,
            0 everywhere, is unlike any that a trained decoder knows: from there it gets nowhere.)
        steps: of the search.
        learning_rate: in logits a step.
    """
    if start is None:
        start = view.to_grid(mask_heatmap(region.cpu().numpy())[None])[0]
    leaf = start.detach().clone().float().requires_grad_(True)
    optimizer = torch.optim.Adam([leaf], lr=learning_rate)
    wanted, scores = region.to(leaf), []
    best = (-1.0, leaf.detach().clone())
    for step in range(steps + 1):
        with torch.enable_grad():
            score = soft_iou(view.to_image(view.decode(leaf[None])), wanted)
            scores.append(float(score.detach()))
            if scores[-1] > best[0]:
                best = (scores[-1], leaf.detach().clone())
            if step < steps:
                (leaf.grad,) = torch.autograd.grad(-score, leaf)
        if step < steps:
            optimizer.step()
    with torch.no_grad():
        mask = view.to_image(view.decode(best[1][None]))[0]
    return BestHeatmap(best[1], mask, scores)


@dataclass(frozen=True)
class WordGradient:
    """First-order influence of every token on where the heatmap is.

    Attributes:
        share: :func:`share_inside` the region.
        prompt: (P,) gradient of the share times embedding, summed over the embedding's width; 0 on image tokens, whose
            embeddings come from the vision tower.
        completion: (R,) likewise.
    """

    share: float
    prompt: Tensor
    completion: Tensor


def word_gradient(case: Case, completions: Completions, region: Tensor, slots: Sequence[int]) -> WordGradient:
    """Gradient × embedding of every token, for the share of the heatmap's probability inside a region.

    Above 0, a little more of the token's embedding would move the heatmap into the region; below 0, out of it.

    Args:
        case: image and question.
        completions: one completion with a concentration token.
        region: (H', W') in [0, 1], see :func:`region_on_grid`.
        slots: of the heatmaps whose union counts.

    Raises:
        ValueError: for a policy that is no transformers model.
    """
    with torch.enable_grad(), _captured(case) as captured:
        output = case.run(completions)
        share = share_inside(output.heatmap_logits[0, list(slots)], region, case.inside)
        (embedded,) = captured
        (gradient,) = torch.autograd.grad(share, embedded)
    product = (gradient.float() * embedded.detach().float()).sum(-1)[0]
    length = output.policy.prompt_length
    return WordGradient(float(share.detach()), product[:length], product[length:])


@contextmanager
def _captured(case: Case) -> Iterator[list[Tensor]]:
    """Collects the token embeddings of a pass, as leaves of its graph."""
    lm, _ = transformers_parts(case.model.policy)
    found: list[Tensor] = []

    def capture(module: nn.Module, args: tuple[object, ...], output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_(True)
        found.append(leaf)
        return leaf.clone()  # models write image features into it

    hook = lm.get_input_embeddings().register_forward_hook(capture)
    try:
        yield found
    finally:
        hook.remove()


def left_out(
    case: Case, completions: Completions, positions: Sequence[int], region: Tensor, slots: Sequence[int]
) -> list[float]:
    """Share of the heatmap's probability inside a region, with one token of the completion left out at a time.

    Args:
        case: image and question.
        completions: one completion.
        positions: tokens to leave out, each on its own.
        region: (H', W') in [0, 1].
        slots: of the heatmaps whose union counts.
    """
    length = completions.ids.shape[1]
    shares: list[float] = []
    for start in range(0, len(positions), _AT_A_TIME):
        chunk = positions[start : start + _AT_A_TIME]
        kept = torch.tensor([[i for i in range(length) if i != position] for position in chunk])
        kept = kept.to(completions.ids.device)
        ids, mask = completions.ids[0][kept], completions.mask[0][kept]
        texts = completions.texts * len(chunk)  # nothing reads them
        shorter = Completions(ids, mask, texts, completions.truncated.expand(len(chunk)))
        with torch.no_grad(), evaluated(case.model):
            output: SegmentationOutput = case.run(shorter)
        shares += share_inside(output.heatmap_logits[:, list(slots)], region, case.inside).tolist()
    return shares
