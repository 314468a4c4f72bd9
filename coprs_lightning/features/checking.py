"""The check at the start of a run: features in the shards and the config's backbone belong together."""

from __future__ import annotations

import warnings
from typing import Any

from coprs_lightning.backbones import CachedBackbone, ImageBackbone
from coprs_lightning.features.description import WEIGHTS, weights_fingerprint

_SIZES = ("image_size", "out_channels", "stride")


def check_features(backbone: ImageBackbone, splits: dict[str, list[dict[str, Any] | None]]) -> None:
    """Refuse features that another backbone made, or that only some splits have.

    Args:
        backbone: of the model.
        splits: for each split of the run the descriptions of the features of its parts, ``None`` for none; see
            ``ShardDataModule.split_features``.

    Raises:
        ValueError: naming the split, what differs, and the options to change.
    """
    fingerprint = None
    for split, descriptions in splits.items():
        described = [description for description in descriptions if description is not None]
        if len(described) < len(descriptions):
            _check_without(backbone, split, described)
            continue
        for description in described:
            if not isinstance(backbone, CachedBackbone):
                _check_frozen(backbone, split)
                fingerprint = fingerprint or weights_fingerprint(backbone)
            _check_sizes(backbone, split, description)
            _check_weights(backbone, split, description, fingerprint)


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
    for name in _SIZES:
        mine, theirs = getattr(backbone, name), description.get(name, getattr(backbone, name))
        if mine != theirs:
            raise ValueError(
                f"the features of data.init_args.{split} were computed with {name} {theirs}, model.backbone has "
                f"{mine}: heatmaps would not lie on the image. Set model.backbone.init_args.{name}: {theirs} "
                "(CachedBackbone), or compute the features again with `coprs data features`."
            )


def _check_weights(backbone: ImageBackbone, split: str, description: dict[str, Any], fingerprint: str | None) -> None:
    made = description.get(WEIGHTS)
    if made is None:
        warnings.warn(
            f"the features of data.init_args.{split} do not say which weights made them (no {WEIGHTS} in index.json), "
            "so nobody can tell whether they fit the model.",
            stacklevel=2,
        )
    elif fingerprint is not None and made != fingerprint:
        source = description.get("backbone") or {}
        raise ValueError(
            f"the features of data.init_args.{split} were made by another backbone than model.backbone: weights "
            f"{str(made)[:12]}…, the model's {fingerprint[:12]}… (theirs was {source.get('class_path')} with "
            f"{source.get('init_args')}). What was learnt would not fit images. Use that backbone, compute the "
            "features again with `coprs data features`, or name the split without features."
        )
