"""The check at the start of a run: features in the shards and the config's backbone belong together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from coprs_lightning.backbones import CachedBackbone, ImageBackbone
from coprs_lightning.features.description import PIXELS, SIZES, WEIGHTS, pixels_of, state_fingerprint


class MakersWeights:
    """Compares the backbone's weights with those that made the features, once they are the run's own.

    Lightning loads a checkpoint after ``setup``, and converts weights to half precision after that: what is compared
    are the weights at ``setup``, or those of the checkpoint that replaces them.

    Args:
        backbone: with the weights that it has without a checkpoint.
        made: split and description of the features of every part that has any.
    """

    def __init__(self, backbone: ImageBackbone, made: list[tuple[str, dict[str, Any]]]) -> None:
        self._backbone = backbone
        self._made = [] if isinstance(backbone, CachedBackbone) else made
        self._weights = state_fingerprint(backbone.state_dict()) if self._made else ""

    def replaced_by(self, saved: Mapping[str, Tensor] | None) -> None:
        """Take a checkpoint's weights for the backbone's.

        Args:
            saved: under the backbone's own names. ``None`` where the checkpoint does not hold them as tensors (pieces
                of a sharded one): nothing is compared then.
        """
        if not self._made:
            return
        if saved is None:
            self._made = []
        elif not _rounded(self._backbone.state_dict(), saved):  # a run in bf16-true saves the same weights, rounded
            self._weights = state_fingerprint(saved)

    def check(self) -> None:
        """Compare, the first time it is called.

        Raises:
            ValueError: naming the split, both fingerprints and the backbone that made the features.
        """
        made, self._made = self._made, []
        for split, description in made:
            found = description.get(WEIGHTS)
            if found is not None and found != self._weights:
                source = description.get("backbone") or {}
                raise ValueError(
                    f"the features of data.init_args.{split} were made by another backbone than model.backbone: "
                    f"weights {str(found)[:12]}…, the model's {self._weights[:12]}… (theirs was "
                    f"{source.get('class_path')} with {source.get('init_args')}). What was learnt would not fit "
                    "images. Use that backbone, compute the features again with `coprs data features` (--checkpoint "
                    "takes the backbone of a run), or name the split without features."
                )


def _rounded(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> bool:
    return own.keys() == saved.keys() and all(
        value.shape == saved[name].shape and torch.equal(value.detach().cpu().to(saved[name].dtype), saved[name].cpu())
        for name, value in own.items()
    )


def check_features(
    backbone: ImageBackbone, splits: Mapping[str, list[dict[str, Any] | None]], *, training: bool = True
) -> MakersWeights:
    """Refuse features of other sizes or preprocessing than the backbone's, or that only some splits have.

    Args:
        backbone: of the model.
        splits: for each split of the run the descriptions of the features of its parts, ``None`` for none; see
            ``ShardDataModule.split_features``.
        training: whether the run trains the parts that are not frozen.

    Returns:
        the check of the weights, for when they are the run's own.

    Raises:
        ValueError: naming the split, what differs, and the options to change.
    """
    made = []
    for split, descriptions in splits.items():
        described = [description for description in descriptions if description is not None]
        if len(described) < len(descriptions):
            _check_without(backbone, split, described)
            continue
        for description in described:
            if training and not isinstance(backbone, CachedBackbone):
                _check_frozen(backbone, split)
            _check_sizes(backbone, split, description)
            if description.get(WEIGHTS) is None:
                warnings.warn(
                    f"the features of data.init_args.{split} do not say which weights made them (no {WEIGHTS} in "
                    "index.json), so nobody can tell whether they fit the model.",
                    stacklevel=2,
                )
            made.append((split, description))
    return MakersWeights(backbone, made)


def _check_without(backbone: ImageBackbone, split: str, described: list[dict[str, Any]]) -> None:
    if described:
        raise ValueError(
            f"data.init_args.{split} names several splits, of which only some have features: a batch could not hold "
            "both. Compute the others' with `coprs data features`, or name the splits without features."
        )
    if isinstance(backbone, CachedBackbone):
        raise ValueError(
            f"model.backbone is CachedBackbone, but data.init_args.{split} has no features, so nothing would make "
            "them. Compute them with `coprs data features` and name its output, or choose a backbone (SamBackbone, "
            "TimmBackbone …)."
        )


def _check_frozen(backbone: ImageBackbone, split: str) -> None:
    if not backbone.frozen:
        raise ValueError(
            f"model.backbone is trained, but data.init_args.{split} has features, which batches bring along: the "
            "backbone would never be asked. Set model.backbone.init_args.frozen: true, or name the split without "
            "features."
        )


def _check_sizes(backbone: ImageBackbone, split: str, description: dict[str, Any]) -> None:
    for name in SIZES:
        mine, theirs = getattr(backbone, name), description.get(name, getattr(backbone, name))
        if mine != theirs:
            raise ValueError(
                f"the features of data.init_args.{split} were computed with {name} {theirs}, model.backbone has "
                f"{mine}: heatmaps would not lie on the image. Set model.backbone.init_args.{name}: {theirs} "
                "(CachedBackbone), or compute the features again with `coprs data features`."
            )
    if isinstance(backbone, CachedBackbone):  # it sees no pixels
        return
    pixels = pixels_of(backbone)
    for name in PIXELS:
        mine, theirs = pixels[name], description.get(name, pixels[name])
        if mine != theirs:
            raise ValueError(
                f"the features of data.init_args.{split} were computed from pixels with {name} {theirs}, "
                f"model.backbone has {mine}: the same image would have other features. Build the backbone as it was "
                "then, or compute the features again with `coprs data features`."
            )
