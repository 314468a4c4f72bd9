"""Heatmaps that people give: boxes, drawings, arrays; and masks from them, with gradient.

The heatmap is the whole interface between what the policy thinks and what the decoder cuts out (paper section 3), so it
can be replaced by anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coprs_lightning.decoders import UpsampleDecoder
from coprs_lightning.explain.case import View
from coprs_lightning.images import ImageLike, read_image
from coprs_lightning.model import CoprsModel
from coprs_lightning.structures import NO_PRIOR_LOGIT

LEAST_INSIDE, MOST_OUTSIDE = 2.0, -4.0
"""Logits (88 % and 2 %) that a drawn heatmap has at least."""


@dataclass(frozen=True)
class Levels:
    """Logits that stand for yes and no in a heatmap that a person draws.

    Models differ: a background of -6 (0.2 %) is far from any prior for a decoder that was trained on -25.

    Attributes:
        inside: of places that are meant.
        outside: of all others.
    """

    inside: float = 4.0
    outside: float = -20.0

    @classmethod
    def of(cls, logits: Tensor) -> Levels:
        """Levels of a model's own heatmap: the medians of its positive and of its negative logits.

        A model that hardly decides (before training) would have a person's box as vague as its own heatmap, so they are
        at least ``LEAST_INSIDE`` and at most ``MOST_OUTSIDE``.

        Args:
            logits: of any shape; the defaults stand for what it does not have.
        """
        values = logits.detach().float().flatten()
        values = values[values > NO_PRIOR_LOGIT]
        inside, outside = values[values > 0], values[values < 0]
        return cls(
            max(LEAST_INSIDE, float(inside.median())) if len(inside) else cls.inside,
            min(MOST_OUTSIDE, float(outside.median())) if len(outside) else cls.outside,
        )

    def logits(self, probability: np.ndarray) -> np.ndarray:
        """Logits of probabilities in [0, 1], of any shape; certainty is as certain as the levels."""
        with np.errstate(divide="ignore"):
            found = np.log(probability) - np.log1p(-probability)
        return np.clip(found, self.outside, self.inside).astype(np.float32)


def box_heatmap(box: Sequence[float], size: tuple[int, int], levels: Levels | None = None) -> Tensor:
    """Heatmap logits that say: what is in the box.

    Args:
        box: left, top, right and bottom in pixels of the image; right and bottom are the first pixels outside.
        size: (H, W) of the image.
        levels: logits inside and outside.

    Returns:
        (H, W) float32.

    Raises:
        ValueError: for a box without area, or one that reaches outside of the image.
    """
    height, width = size
    shown = ",".join(f"{value:g}" for value in box)
    if len(box) != 4:
        raise ValueError(f"box {shown} has {len(box)} numbers; it needs left,top,right,bottom in pixels of the image.")
    left, top, right, bottom = (round(value) for value in box)
    if left < 0 or top < 0 or right > width or bottom > height:
        raise ValueError(
            f"box {shown} reaches outside of the image, which is {width} pixels wide and {height} high. The order is "
            "left,top,right,bottom; right and bottom are the first pixels outside of the box."
        )
    if right <= left or bottom <= top:
        raise ValueError(
            f"box {shown} holds no pixel: right must be above left and bottom above top. The order is "
            "left,top,right,bottom."
        )
    levels = Levels() if levels is None else levels
    logits = torch.full(size, levels.outside)
    logits[top:bottom, left:right] = levels.inside
    return logits


def mask_heatmap(mask: np.ndarray, levels: Levels | None = None) -> Tensor:
    """Heatmap logits (H, W) that say exactly what a mask (H, W) bool says."""
    levels = Levels() if levels is None else levels
    return torch.where(torch.from_numpy(np.ascontiguousarray(mask)), levels.inside, levels.outside)


def read_heatmap(path: Path, size: tuple[int, int], levels: Levels | None = None) -> Tensor:
    """A heatmap from a file: grey values of a picture are probabilities, a ``.npy`` array holds logits.

    Args:
        path: the file; a picture is (H, W), an array (H, W), or (n, H, W) for n objects.
        size: (H, W) of the image.
        levels: logits of black and white.

    Returns:
        (n, H, W) float32 logits.

    Raises:
        ValueError: for a file that is no such thing, or of another size.
    """
    if path.suffix.lower() == ".npy":
        logits = _array(path)
    else:
        try:
            pixels = read_image(path, name=f"heatmap {path}")
        except ValueError as error:
            raise ValueError(f"heatmap {path}: {error}") from error
        if np.ptp(pixels.astype(np.int16), axis=2).max() > 8:
            raise ValueError(
                f"heatmap {path} is coloured, and colours are no probabilities. Draw it in grey: black is 0, white is "
                "1. The pictures of `coprs segment` are for looking; `coprs explain` writes a grey heatmap.png."
            )
        levels = Levels() if levels is None else levels
        logits = torch.from_numpy(levels.logits(pixels[..., 0].astype(np.float64) / 255))[None]
    check_heatmap(logits, size, f"heatmap {path}")
    return logits


def _array(path: Path) -> Tensor:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"heatmap {path} cannot be read as an array of NumPy: {error}") from error
    if not isinstance(values, np.ndarray) or not np.issubdtype(values.dtype, np.floating):
        kind = getattr(values, "dtype", type(values).__name__)
        raise ValueError(f"heatmap {path} holds {kind}, not floating-point logits. Save probabilities as a grey PNG.")
    logits = torch.from_numpy(values.astype(np.float32))
    return logits[None] if logits.ndim == 2 else logits


def check_heatmap(logits: Tensor, size: tuple[int, int], name: str = "heatmap") -> None:
    """Refuse logits that are not (n, H, W) over the image, or not finite.

    Raises:
        ValueError: with both sizes.
    """
    if logits.ndim != 3 or tuple(logits.shape[-2:]) != size or not len(logits):
        raise ValueError(
            f"{name} has the shape {tuple(logits.shape[-2:] if len(logits) == 1 else logits.shape)}, the image has "
            f"{size} (height, width): nobody knows which place is which. Give a map of the image's size, one for each "
            "object."
        )
    if not logits.isfinite().all():
        raise ValueError(f"{name} holds numbers that are not finite. Logits of ±20 are as good as certain.")


def check_decoder(model: CoprsModel, name: str) -> None:
    """Refuse to replace the heatmap of a model that has no decoder.

    Raises:
        ValueError: telling that the mask would be what was given.
    """
    if isinstance(model.decoder, UpsampleDecoder):
        raise ValueError(
            f"{name} replaces the heatmap, but this model has no decoder stage: UpsampleDecoder (model.decoder) takes "
            "the heatmap as the mask, so the mask would be what you gave. Leave it out, or take a checkpoint with a "
            "decoder that looks at the image, such as SamMaskDecoder."
        )


def segment_with_heatmap(model: CoprsModel, image: ImageLike, heatmap: Tensor) -> Tensor:
    """Masks from heatmaps that you give, in place of those that the policy asks for; differentiable in the heatmap.

    For many heatmaps of one image make a :class:`~coprs_lightning.explain.case.View` and use its methods: the image's
    features are computed once then.

    Args:
        model: a trained model.
        image: see :func:`~coprs_lightning.images.as_pixels`.
        heatmap: (H, W) logits over the image, or (n, H, W) for n masks.

    Returns:
        (H, W) or (n, H, W) mask logits; the mask is where they are above 0.

    Raises:
        ValueError: for a heatmap of another size.
    """
    view = View(model, image)
    logits = heatmap[None] if heatmap.ndim == 2 else heatmap
    check_heatmap(logits, view.size)
    masks = view.to_image(view.decode(view.to_grid(logits)))
    return masks[0] if heatmap.ndim == 2 else masks
